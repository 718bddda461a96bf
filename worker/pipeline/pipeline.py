"""Read this first: the worker's flow, from consumed records to published answers.

One turn of the loop: poll, admit events while there is room, collect what the stages have completed, publish answers
with their offsets, report health and metrics. This thread owns the broker connection; ``stages`` works on the images.
"""

import threading
import time
from collections import Counter as CounterOf
from collections.abc import Mapping, Sequence
from typing import get_args

import structlog
from prometheus_client import Counter

from bundle.errors import ImageError
from worker.decision.attribution import Attributor, ScoredImage
from worker.errors import (
    AnswerRefused,
    Disposition,
    GroupUnstable,
    MessageRefused,
    OverShare,
    PublishAborted,
    SourceError,
    SourceExhausted,
    SourceUnreadable,
    WorkerError,
)
from worker.messages.events import ImageEvent, dead_letter, deferral, without_value
from worker.messages.records import Broker, Lag, Message, Partition, Progress, Record
from worker.messages.verdict import Decision, Verdict, verdict_message
from worker.operations.health import Health, Watchdog
from worker.operations.metrics import STAGES, Metrics
from worker.pipeline.intake import Intake
from worker.pipeline.journal import Journal
from worker.pipeline.lanes import InFlight
from worker.pipeline.stages import Completion, Stages
from worker.settings import Settings

_log = structlog.get_logger(__name__)

_TURN_S = 0.005
"""Least time from one turn to the next: each costs CPU, whether it moves one event or a hundred."""
_BUSY_POLL_S, _QUIET_POLL_S, _IDLE_POLL_S = 0.01, 0.1, 0.25
"""Longest waits: while answers come, when none came for a while, and when a record or completion ends the wait."""
_LAG_EVERY_S = 5.0
_REFUSED_DELAY_S = 10.0
"""How long an event waits whose answer the broker refuses, where no other answer would do."""
_MAX_REFUSED_IN_A_ROW = 3
"""Verdicts refused in a row that are taken for faults of their events; those after them for one of the topic."""


class Pipeline:
    """Consumes events, publishes their answers and commits their offsets."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        stages: Stages,
        attributor: Attributor,
        health: Health,
        metrics: Metrics,
        journal: Journal | None = None,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._stages = stages
        self._attributor = attributor
        self._health = health
        self._metrics = metrics
        self._watchdog = Watchdog(settings.kafka.publish_deadline_s)
        self._intake = Intake(settings, journal)
        kafka = settings.kafka
        outcomes = {kafka.verdicts_topic: "verdict", kafka.retry_topic: "deferred", kafka.dead_topic: "rejected"}
        self._outcomes = {topic: metrics.events.labels(outcome) for topic, outcome in outcomes.items()}
        self._refused = {topic: metrics.answers_refused.labels(topic) for topic in outcomes}
        self._seconds = {stage: metrics.stage_seconds.labels(stage) for stage in STAGES}
        self._scores = {decision: metrics.score.labels(decision) for decision in get_args(Decision)}
        self._publish_at = 0.0
        self._max_events = settings.pipeline.max_in_flight
        """Most answers in one publication: fewer while one of them is refused and it is not known which."""
        self._refused_in_a_row = 0
        self._lag_at = 0.0
        self._is_rebalancing = False
        """Whether the last publication was refused for that reason."""
        self._quiet_s = _BUSY_POLL_S
        self._turn_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then finish what is in flight, within ``pipeline.drain_s``.

        Raises:
            WorkerError: with disposition *crash*; nothing unanswered was committed.
        """
        try:
            self._broker.start()
            self._stages.start()
            while not stop.is_set():
                records = self._poll()
                self._intake.forget_revoked(self._broker.owned())
                self._intake.receive(records, self._broker.owned())
                self._admit()
                self._defer_what_blocks()
                completed = self._turn()
                self._quiet_s = _BUSY_POLL_S if records or completed else min(2 * self._quiet_s, _QUIET_POLL_S)
            self._drain()
        finally:
            try:
                self._broker.close()  # first: the group should not wait for the stages' threads
            finally:
                self._stages.close()
        _log.info("stopped", dropped=self._intake.in_flight)

    def _turn(self) -> bool:
        """Answer, publish and report; whether a stage completed something."""
        completed = self._stages.completed()
        self._answer(completed)
        self._publish()
        self._report()
        return bool(completed)

    def _admit(self) -> None:
        self._intake.max_message_bytes = self._broker.max_message_bytes
        for item in self._intake.admit():
            self._seconds["queue"].observe(item.queue_ms / 1000)
            if item.refused is not None:
                self._intake.answer(item, self._failed(item, item.refused))
            else:
                self._stages.submit(item)
        self._broker.pause(self._intake.to_pause(self._broker.owned()))

    def _defer_what_blocks(self) -> None:
        """Defer events that hold up the publication of answers behind them.

        Without room those whose images are still being fetched; and those that wait for a decoder while there are other
        tenants, if their own has so many or so slow images that this would take long.
        """
        is_full = not self._intake.has_room()
        if is_full or self._stages.is_behind:
            for item in self._intake.holding_up():
                if is_full:
                    self._stages.give_up_fetch(item)
                if self._intake.may_be_deferred(item):
                    self._stages.give_up_decoding(item)

    def _answer(self, completed: Sequence[Completion]) -> None:
        scored: list[tuple[InFlight, ImageEvent, ScoredImage]] = []
        for completion in completed:
            item, result = completion.item, completion.result
            if isinstance(result, ScoredImage):
                assert item.event is not None
                scored.append((item, item.event, result))
            else:
                self._intake.answer(item, self._failed(item, result))
        topic = self._settings.kafka.verdicts_topic
        verdicts = self._attributor.verdicts([(event, result) for _, event, result in scored])
        for (item, event, _), verdict in zip(scored, verdicts, strict=True):
            self._observe(item, verdict)
            key, traceparent = item.record.key, event.traceparent
            answer = verdict_message(verdict, topic=topic, key=key, traceparent=traceparent)
            self._intake.answer(item, answer)

    def _failed(self, item: InFlight, error: WorkerError | ImageError) -> Message:
        """The deferral or dead letter that answers an event, by the disposition of its error."""
        kafka, fetch, attempt = self._settings.kafka, self._settings.fetch, item.delivery.attempt
        disposition = Disposition.REJECT if isinstance(error, ImageError) else error.disposition
        if disposition is Disposition.CRASH:
            raise error
        is_last = attempt >= fetch.attempts and not isinstance(error, SourceUnreadable)
        if isinstance(error, SourceError) and disposition is Disposition.DEFER and is_last:
            error = SourceExhausted(f"{attempt} attempts; the last: {error}")
            disposition = Disposition.REJECT
        log = _log.debug if disposition is Disposition.DEFER else _log.info
        log(
            disposition.value,
            origin=item.delivery.origin,
            attempt=attempt,
            reason=error.reason,
            why=str(error),
        )
        if disposition is Disposition.DEFER:
            item.counter = self._metrics.deferred(error.reason, attempt)
            delay_s = 0 if isinstance(error, OverShare) else fetch.retry_delay_s  # it waits for a slot, not a source
            not_before_ms = int((time.time() + delay_s) * 1000)
            return deferral(
                item.record,
                item.delivery,
                counts=not isinstance(error, SourceUnreadable),
                topic=kafka.retry_topic,
                reason=error.reason,
                detail=str(error),
                not_before_ms=not_before_ms,
            )
        item.counter = self._metrics.rejects.labels(error.reason)
        return dead_letter(
            item.record,
            item.delivery,
            topic=kafka.dead_topic,
            reason=error.reason,
            detail=str(error),
            max_bytes=self._broker.max_message_bytes,
        )

    def _publish(self) -> None:
        now = time.monotonic()
        if now < self._publish_at and not self._intake.is_choked():
            return
        self._intake.forget_revoked(self._broker.owned())
        progress = self._intake.progress(self._max_events)
        self._is_rebalancing = False
        if not progress:
            return
        self._publish_at = now + self._settings.kafka.commit_interval_s
        try:
            with self._watchdog.guard("publish"), self._metrics.publish_seconds.time():
                self._broker.publish(progress)
        except MessageRefused as error:
            self._metrics.publications.labels("aborted").inc()
            self._handle_refusal(error)
        except GroupUnstable:
            self._is_rebalancing = True  # rebalances are counted where they happen
        except PublishAborted as error:
            self._metrics.publications.labels("aborted").inc()
            _log.warning("publication aborted, retrying", why=str(error))
        else:
            self._metrics.publications.labels("committed").inc()
            self._settle(progress)

    def _handle_refusal(self, error: MessageRefused) -> None:
        """Find the event whose answer the broker refuses, and see to it that it gets another one.

        A dead letter becomes a pointer, a verdict a dead letter. What else is refused waits, with the rest of its
        partition, until the topic takes it: a deferral, a pointer, and verdicts once several in a row were refused.
        """
        items = self._intake.answered_by(error.candidates)
        self._publish_at = 0.0
        if len(items) > 1:
            self._max_events = len(items) // 2
            return
        for item in items:  # one, or none if its partition was taken away
            assert item.answer is not None
            kafka, topic = self._settings.kafka, item.answer.topic
            self._refused[topic].inc()
            if topic == kafka.dead_topic and item.answer.value:
                _log.warning("dead letter becomes a pointer", origin=item.delivery.origin, why=str(error))
                self._intake.answer(item, without_value(item.answer))
            elif topic == kafka.verdicts_topic and self._refused_in_a_row < _MAX_REFUSED_IN_A_ROW:
                self._refused_in_a_row += 1
                self._read_again(item, AnswerRefused(f"the broker does not take its verdict: {error}"))
            else:
                _log.error(
                    "the broker refuses an answer: its partition waits",
                    origin=item.delivery.origin,
                    topic=topic,
                    why=str(error),
                    again_after_s=_REFUSED_DELAY_S,
                )
                self._read_again(item, None, _REFUSED_DELAY_S)

    def _read_again(self, item: InFlight, refusal: AnswerRefused | None, delay_s: float = 0.0) -> None:
        """Read an event's partition again from what is in flight, and reject the event or let it wait."""
        partition = item.record.partition
        epoch = self._broker.read_again(partition, item.record.epoch, self._intake.first_offset(partition))
        if epoch is not None:
            self._intake.note_refused(item, refusal, epoch, delay_s)

    def _settle(self, progress: list[Progress]) -> None:
        self._max_events = min(2 * self._max_events, self._settings.pipeline.max_in_flight)
        counted: CounterOf[Counter] = CounterOf()
        for item in self._intake.settle(progress):
            assert item.answer is not None
            counted[self._outcomes[item.answer.topic]] += 1
            if item.counter is not None:
                counted[item.counter] += 1
        for counter, times in counted.items():
            counter.inc(times)
        if any(message.topic == self._settings.kafka.verdicts_topic for part in progress for message in part.messages):
            self._metrics.last_verdict.set_to_current_time()
            self._refused_in_a_row = 0

    def _drain(self) -> None:
        """Finish the events in flight; those that only wait are left to the next worker."""
        deadline = time.monotonic() + self._settings.pipeline.drain_s
        _log.info("stopping", in_flight=self._intake.in_flight)
        while self._intake.in_flight and time.monotonic() < deadline:
            self._intake.forget_waiting()
            self._broker.pause(list(self._broker.owned()))
            self._broker.poll(_BUSY_POLL_S)
            self._turn()

    def _report(self) -> None:
        self._health.beat(
            oldest_in_flight=min(map(self._stages.since, self._intake.first_unanswered()), default=None),
            joined=self._broker.joined(),
            paused=self._stages.paused,
            impaired=self._stages.impaired,
        )
        self._metrics.in_flight.set(self._intake.in_flight)
        self._metrics.in_flight_bytes.set(self._intake.held_bytes)
        self._metrics.queue_events.labels("polled").set(self._intake.waiting)
        if time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + _LAG_EVERY_S
            asked_ms = time.time() * 1000
            lag = self._broker.lag()
            if lag is not None:  # until there is an answer, the old numbers can be read
                self._show_lag(lag)
                for partition, found in lag.items():
                    if not (found.behind or found.withheld or found.is_stopped):
                        self._intake.note_drained(partition, asked_ms)

    def _show_lag(self, lag: Mapping[Partition, Lag]) -> None:
        metrics = self._metrics
        gauges = metrics.lag, metrics.withheld, metrics.stopped
        for gauge in gauges:
            gauge.clear()
        for partition, found in lag.items():
            behind = found.behind + self._intake.unanswered(partition)
            for gauge, value in zip(gauges, (behind, found.withheld, found.is_stopped), strict=True):
                gauge.labels(partition.topic, partition.number).set(value)

    def _observe(self, item: InFlight, verdict: Verdict) -> None:
        seconds, timing = self._seconds, verdict.timing_ms
        if not item.is_inline:
            seconds["fetch"].observe(timing.fetch / 1000)
        if not verdict.cached:
            seconds["decode"].observe(timing.decode / 1000)
            seconds["inference"].observe(timing.inference / 1000)
        seconds["total"].observe(timing.total / 1000)
        if timing.clock == "producer":
            self._metrics.producer_timestamps.inc()
        generated = verdict.generated
        if generated.probability is not None:
            self._scores[generated.decision].observe(generated.probability)
        for reason in generated.reasons:
            self._metrics.reasons.labels(reason).inc()
        item.counter = self._metrics.decisions.labels(generated.decision, verdict.attribution.source or "none")

    def _poll(self) -> list[Record]:
        """Poll, for at most the time until there may be something else to do.

        Every turn costs CPU that inference needs, most of it in the client's own thread, so the longer nothing
        happened, the longer the wait.
        """
        time.sleep(max(0.0, self._turn_at - time.monotonic()))
        until_publication = self._publish_at - time.monotonic()
        if self._is_rebalancing:  # which goes on inside polls alone, and nothing can be published before it has ended
            records = self._broker.poll(_IDLE_POLL_S)
        elif not self._intake.has_room():  # all partitions are paused: only answers make room
            self._stages.wait(min(until_publication, _IDLE_POLL_S) if until_publication > 0 else _IDLE_POLL_S)
            records = self._broker.poll(0)
        elif self._intake.is_careful:  # one event at a time: the next should not wait for a poll as well
            if self._intake.in_flight:
                self._stages.wait(_BUSY_POLL_S)
            records = self._broker.poll(0 if self._intake.in_flight else _BUSY_POLL_S)
        elif not self._intake.in_flight:
            records = self._broker.poll(_IDLE_POLL_S)
        else:
            wait_s = min(until_publication, _QUIET_POLL_S) if until_publication > 0 else self._quiet_s
            records = self._broker.poll(wait_s)
        self._turn_at = time.monotonic() + _TURN_S
        return records

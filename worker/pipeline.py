"""Read this first: the worker's flow, from consumed records to published answers.

One turn of the loop: poll, take up what there is room for, collect what the stages have completed, publish answers
with their offsets, say how we are. This thread owns the broker connection; images are the business of ``stages``.
"""

import threading
import time

import structlog

from bundle.errors import ImageError
from worker.attribution import Attributor, ScoredImage
from worker.broker import Broker, Message, Partition, Progress, Record
from worker.errors import Disposition, MessageTooLarge, PublishAborted, SourceExhausted, WorkerError
from worker.events import Delivery, dead_letter, deferral, pointer, read_delivery, read_event, without_value
from worker.health import Health, Watchdog
from worker.lanes import InFlight, Lane
from worker.metrics import Metrics
from worker.settings import Settings
from worker.stages import Completion, Stages
from worker.verdict import Verdict, verdict_message

_log = structlog.get_logger(__name__)

_IDLE_POLL_S = 0.1
_BUSY_POLL_S = 0.01
_LAG_EVERY_S = 5.0
_LANE_BYTES = 4 * 2**20
"""Most bytes of one partition in one publication: dead letters may be large, and must be through before a time-out."""


class Pipeline:
    """Consumes, answers and commits until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        stages: Stages,
        attributor: Attributor,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._stages = stages
        self._attributor = attributor
        self._health = health
        self._metrics = metrics
        self._watchdog = Watchdog(settings.kafka.publish_deadline_s)
        self._lanes: dict[Partition, Lane] = {}
        self._held_bytes = 0
        self._publish_at = 0.0
        self._lag_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then finish what is in flight, within ``pipeline.drain_s``.

        Raises:
            WorkerError: with disposition *crash*; nothing unanswered was committed.
        """
        try:
            self._broker.start()
            self._stages.start()
            while not stop.is_set():
                self._receive(self._broker.poll(self._poll_s()))
                self._take_up()
                self._turn()
            self._drain()
        finally:
            try:
                self._broker.close()  # first: the group should not wait for our threads
            finally:
                self._stages.close()
        _log.info("stopped", dropped=self._in_flight())

    def _turn(self) -> None:
        for completion in self._stages.completed():
            completion.item.answer = self._answer(completion)
        self._publish()
        self._report()

    def _receive(self, records: list[Record]) -> None:
        self._forget_revoked()
        owned = self._broker.owned()
        for record in records:
            if owned.get(record.partition) != record.epoch:
                continue
            if record.partition not in self._lanes:
                self._lanes[record.partition] = Lane(record.partition, record.epoch)
            self._lanes[record.partition].waiting.append(record)

    def _forget_revoked(self) -> None:
        """Drop what is in flight on partitions that are no longer ours: whoever has them reads those events again."""
        owned = self._broker.owned()
        for partition, lane in list(self._lanes.items()):
            if owned.get(partition) != lane.epoch:
                self._held_bytes -= sum(item.held_bytes for item in lane)
                del self._lanes[partition]

    def _take_up(self) -> None:
        """One event of each partition in turn, while there is room; what is not due yet waits, its partition paused."""
        progressing = True
        while progressing:
            progressing = False
            for lane in list(self._lanes.values()):
                if lane.waiting and self._has_room():
                    record = lane.waiting[0]
                    delivery = read_delivery(record, self._settings.kafka.retry_topic)
                    if self._is_due(delivery):
                        lane.waiting.popleft()
                        self._lanes[lane.partition] = self._lanes.pop(lane.partition)  # its next turn comes last
                        self._begin(lane, InFlight(record, delivery))
                        progressing = True
        waiting = [lane.partition for lane in self._lanes.values() if lane.waiting]
        self._broker.pause(waiting if self._has_room() else list(self._broker.owned()))

    def _is_due(self, delivery: Delivery) -> bool:
        """A wait far beyond the retry delay comes from a clock that is wrong, and must not block a partition."""
        wait_s = delivery.not_before_ms / 1000 - time.time()
        return wait_s <= 0 or wait_s > 2 * self._settings.fetch.retry_delay_s

    def _has_room(self) -> bool:
        limits = self._settings.pipeline
        return self._in_flight() < limits.max_in_flight and self._held_bytes < limits.max_in_flight_bytes

    def _begin(self, lane: Lane, item: InFlight) -> None:
        lane.take_up(item)
        self._held_bytes += item.held_bytes
        self._metrics.stage_seconds.labels("queue").observe(item.queue_ms / 1000)
        events = self._settings.events
        try:
            item.event = read_event(item.record, item.delivery, events.inline_max_bytes, events.attributes)
        except WorkerError as error:
            item.answer = self._failed(item, error)
        else:
            self._stages.submit(item)

    def _answer(self, completion: Completion) -> Message:
        if not isinstance(completion.result, ScoredImage):
            return self._failed(completion.item, completion.result)
        item = completion.item
        assert item.event is not None
        verdict = self._attributor.verdict(item.event, completion.result)
        self._observe(item, verdict)
        topic = self._settings.kafka.verdicts_topic
        return verdict_message(verdict, topic=topic, key=item.record.key, traceparent=item.event.traceparent)

    def _failed(self, item: InFlight, error: WorkerError | ImageError) -> Message:
        """A deferral or a dead letter, by the error's disposition."""
        kafka, fetch = self._settings.kafka, self._settings.fetch
        disposition = Disposition.REJECT if isinstance(error, ImageError) else error.disposition
        if disposition is Disposition.CRASH:
            raise error
        if disposition is Disposition.DEFER and item.delivery.attempt >= fetch.attempts:
            error = SourceExhausted(f"{item.delivery.attempt} attempts; the last: {error}")
            disposition = Disposition.REJECT
        _log.info(
            disposition.value,
            origin=item.delivery.origin,
            attempt=item.delivery.attempt,
            reason=error.reason,
            why=str(error),
        )
        if disposition is Disposition.DEFER:
            item.counter = self._metrics.deferrals.labels(error.reason)
            not_before_ms = int(time.time() * 1000 + fetch.retry_delay_s * 1000)
            return deferral(
                item.record,
                item.delivery,
                topic=kafka.retry_topic,
                reason=error.reason,
                detail=str(error),
                not_before_ms=not_before_ms,
            )
        item.counter = self._metrics.rejects.labels(error.reason)
        letter = dead_letter(item.record, item.delivery, topic=kafka.dead_topic, reason=error.reason, detail=str(error))
        return pointer(letter, self._broker.max_message_bytes) or letter

    def _publish(self) -> None:
        now = time.monotonic()
        if now < self._publish_at:
            return
        self._forget_revoked()
        progress = [found for lane in self._lanes.values() if (found := lane.progress(_LANE_BYTES))]
        if not progress:
            return
        self._publish_at = now + self._settings.kafka.commit_interval_s
        try:
            with self._watchdog.guard("publish"), self._metrics.publish_seconds.time():
                self._broker.publish(progress)
        except MessageTooLarge as error:
            self._shrink(progress, error)
        except PublishAborted as error:
            self._metrics.publications.labels("aborted").inc()
            _log.warning("publication aborted, will be repeated", why=str(error))
        else:
            self._metrics.publications.labels("committed").inc()
            self._settle(progress)

    def _shrink(self, progress: list[Progress], error: MessageTooLarge) -> None:
        """A dead letter does not fit after all, by its client's exact measure: send a pointer instead."""
        items = [item for part in progress for item, _ in zip(self._lanes[part.partition], part.messages, strict=False)]
        item = items[error.index]
        assert item.answer is not None
        if item.answer.topic != self._settings.kafka.dead_topic or not item.answer.value:
            raise error
        _log.warning("dead letter becomes a pointer", origin=item.delivery.origin, why=str(error))
        item.answer = without_value(item.answer)
        self._publish_at = 0.0

    def _settle(self, progress: list[Progress]) -> None:
        kafka = self._settings.kafka
        outcomes = {kafka.verdicts_topic: "verdict", kafka.retry_topic: "deferred", kafka.dead_topic: "rejected"}
        for part in progress:
            for item in self._lanes[part.partition].settle(part):
                assert item.answer is not None
                self._held_bytes -= item.held_bytes
                self._metrics.events.labels(outcomes[item.answer.topic]).inc()
                if item.counter is not None:
                    item.counter.inc()
                if item.answer.topic == kafka.verdicts_topic:
                    self._metrics.last_verdict.set_to_current_time()

    def _drain(self) -> None:
        """Finish what is in flight; what only waits is left to the next worker."""
        deadline = time.monotonic() + self._settings.pipeline.drain_s
        _log.info("stopping", in_flight=self._in_flight())
        while self._in_flight() and time.monotonic() < deadline:
            for lane in self._lanes.values():
                lane.waiting.clear()
            self._broker.pause(list(self._broker.owned()))
            self._broker.poll(_BUSY_POLL_S)
            self._turn()

    def _report(self) -> None:
        oldest = min((lane.oldest for lane in self._lanes.values() if lane.oldest is not None), default=None)
        self._health.beat(oldest_in_flight=oldest, joined=self._broker.joined())
        self._metrics.in_flight.set(self._in_flight())
        self._metrics.in_flight_bytes.set(self._held_bytes)
        if time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + _LAG_EVERY_S
            self._metrics.lag.clear()
            for partition, ahead in self._broker.lag().items():
                lane = self._lanes.get(partition)
                unanswered = len(lane) + len(lane.waiting) if lane else 0
                self._metrics.lag.labels(partition.topic, partition.number).set(ahead + unanswered)

    def _observe(self, item: InFlight, verdict: Verdict) -> None:
        seconds = self._metrics.stage_seconds
        if not item.is_inline:
            seconds.labels("fetch").observe(item.fetch_s)
        if not verdict.cached:
            seconds.labels("decode").observe(item.decode_s)
            seconds.labels("inference").observe(item.inference_s)
        seconds.labels("total").observe(verdict.timing_ms.total / 1000)
        item.counter = self._metrics.decisions.labels(verdict.generated.decision, verdict.attribution.source or "none")

    def _poll_s(self) -> float:
        """Short while there is work to publish or to take up, else long."""
        return _BUSY_POLL_S if self._in_flight() else _IDLE_POLL_S

    def _in_flight(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

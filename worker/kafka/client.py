"""Kafka through kafka-python, which only the modules of ``worker.kafka`` import.

Exactly-once rests on an order of steps that kafka-python (3.0.12) alone does not keep; each step closes a hole that was
seen to lose or repeat events:

1. the input consumer is ``read_committed``, so that committed offsets are read with stable offsets;
2. messages and offsets of partitions that were taken away are left out;
3. nothing is published while the group is not stable: with a negative generation the broker would skip its check and
   let a zombie commit, and with a generation whose assignment is not applied yet, for partitions of other workers;
4. every send is resolved before the offsets go in: a batch that times out changes no transaction state;
5. offsets, then commit; if the producer's epoch was bumped meanwhile, a reported commit may not have happened;
6. after a clean abort the same is published again, by another producer if the broker has refused a record: that one's
   sequence numbers have a gap. After an unclear outcome the process ends, since only a restart, which reads the
   committed offsets, can tell.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient
from kafka.structs import MemberState, OffsetAndMetadata

from worker.errors import BrokerUnreachable, Fenced, GroupUnstable, PublishAborted, UndecodableBatch
from worker.kafka.assignor import PerTopicAssignor
from worker.kafka.closing import close_consumer
from worker.kafka.connection import ACCESS_DENIED, check_topics, connect, reach, silent_client, start_error
from worker.kafka.positions import POSITION_ERRORS, Change, Positions
from worker.kafka.producers import Publisher
from worker.kafka.record_batches import Allowance, AmplifiedHeaders, Ceilings, Unread, read_leniently
from worker.kafka.topic_configs import check_settings
from worker.messages.records import BatchGuard, Lag, Partition, Progress, Record
from worker.operations.health import Watchdog
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

_HEARTBEAT_S = 1.0
"""Members learn of a rebalance by their heartbeats, twice in a cooperative one, and nothing is published meanwhile."""
_METADATA_AGE_MS = 10_000
"""How long a partition that is added to a topic may stay unseen; the default would be five minutes."""
_SHORT_FETCH_MS, _LONG_FETCH_MS = 100, 500
"""How long the broker may wait for something to fetch; see ``_fetch_in_time``."""
_LAG_TIMEOUT_MS = _LONG_FETCH_MS + 500
"""The broker answers the requests of a connection in order, so that this one waits behind a fetch under way."""
_MARK_EVERY_S = 0.5
_MOST_SET_ASIDE = 4
"""Fetches whose responses the client may keep for paused partitions."""
_LOG_APPEND_TIME = 1
_UNDECODABLE = (errors.CorruptRecordError, errors.UnsupportedCodecError)


class _Join:
    """The future answer to a join, as something to be awaited: not done, whether it has come or not."""

    is_done = False

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def __await__(self) -> Any:
        return self._answer.__await__()


class KafkaBroker:
    """``Broker`` over kafka-python, exactly once by transactions or at least once."""

    def __init__(self, settings: KafkaSettings, metrics: Metrics, guard: BatchGuard | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._consumer: Any = None
        self._publisher = Publisher(settings)
        self._positions: Positions  # from the start on
        self._epochs: dict[Partition, int] = {}
        self._assignments = 0
        self._polls = 0
        self._polled: dict[TopicPartition, int] = {}
        """In which poll a partition had its last turn."""
        self._member = ""
        self._has_rejoined = False
        self._listener = _Listener(self._epochs, self._next_epoch, metrics)
        self._watchdog = Watchdog(settings.publish_deadline_s)
        self._verdicts: list[Partition] = []
        self._mark_at = 0.0
        self._allowance = Allowance(Ceilings.of(settings), guard)
        for topic in (settings.images_topic, settings.retry_topic):
            metrics.records_lost.labels(topic)

    @silent_client()
    def start(self) -> None:
        """See ``Broker``."""
        s = self._settings
        reach(s)
        try:
            self._consumer = connect(
                KafkaConsumer,
                s,
                group_id=s.group_id,
                group_instance_id=s.instance_id,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="none",  # see worker.kafka.positions
                partition_assignment_strategy=[PerTopicAssignor],
                session_timeout_ms=int(s.session_timeout_s * 1000),
                heartbeat_interval_ms=int(min(_HEARTBEAT_S, s.session_timeout_s / 3) * 1000),
                max_poll_interval_ms=int(s.max_poll_interval_s * 1000),
                max_poll_records=s.max_poll_records,
                fetch_max_bytes=s.fetch_max_bytes,
                max_partition_fetch_bytes=s.fetch_max_bytes,
                fetch_max_wait_ms=_SHORT_FETCH_MS,
                metadata_max_age_ms=_METADATA_AGE_MS,
            )
            self._prepare_consumer()
            partitions = check_topics(s)
            self._verdicts = [Partition(s.verdicts_topic, number) for number in range(partitions[s.verdicts_topic])]
            with closing(connect(KafkaAdminClient, s)) as admin:
                configs = check_settings(admin, partitions, s)
            self._publisher.start(configs)
            topics = [s.images_topic, s.retry_topic]
            self._consumer.subscribe(topics, listener=self._listener)
        except errors.KafkaError as error:
            raise start_error(error, s) from error

    def poll(self, timeout_s: float) -> list[Record]:
        """See ``Broker``."""
        self._release_stalled_fetch()
        self._await_join()
        self._allowance.begin_poll()
        self._polls += 1
        try:
            with self._in_turn():
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except _UNDECODABLE as error:
            raise UndecodableBatch(f"{self._stuck_at()}: {error}") from error
        except ACCESS_DENIED as error:
            raise start_error(error, self._settings) from error
        except POSITION_ERRORS as error:
            self._positions.mend(error)
            polled = {}
        except errors.InvalidSessionTimeoutError as error:
            raise BrokerUnreachable(
                f"kafka.session_timeout_s={self._settings.session_timeout_s:g}: the broker allows what lies between "
                "its group.min.session.timeout.ms (6 s by default) and group.max.session.timeout.ms"
            ) from error
        except errors.KafkaError as error:
            if not error.retriable:
                raise BrokerUnreachable(f"the consumer group cannot be joined or read: {error}") from error
            _log.warning("poll failed, retrying", why=str(error))
            return []
        self._check_member()
        self._rejoin()
        self._limit_set_aside()
        made_again = self._positions.check()
        current = {
            partition: records
            for tp, records in polled.items()
            if (partition := Partition(*tp)) in self._epochs and partition.topic not in made_again
        }
        self._positions.note_read(current)
        self._polled.update(dict.fromkeys(polled, self._polls))
        self._commit_unmarked()
        return [
            _record(partition, self._epochs[partition], self._positions.topic_id(partition.topic), record)
            for partition, records in current.items()
            for record in records
        ]

    @property
    def max_message_bytes(self) -> int:
        """See ``Broker``."""
        return self._publisher.max_message_bytes

    def owned(self) -> Mapping[Partition, int]:
        """See ``Broker``."""
        return dict(self._epochs)

    def joined(self) -> bool:
        """See ``Broker``."""
        return self._consumer is not None and self._consumer.group_metadata().generation_id >= 0

    def pause(self, partitions: Collection[Partition]) -> None:
        """See ``Broker``."""
        assigned = self._consumer.assignment()
        wanted = {TopicPartition(*partition) for partition in {*partitions, *self._positions.stopped}} & assigned
        paused = self._consumer.paused() & assigned
        if more := wanted - paused:
            self._consumer.pause(*more)
        if fewer := paused - wanted:
            self._consumer.resume(*fewer)

    def publish(self, progress: Sequence[Progress]) -> None:
        """See ``Broker``."""
        group = self._consumer.group_metadata()  # first: the broker refuses a generation that ends meanwhile
        current = [part for part in progress if self._epochs.get(part.partition) == part.epoch]
        if not current:
            return
        messages = [message for part in current for message in part.messages]
        offsets = {TopicPartition(*part.partition): self._committed_offset(part) for part in current}
        if group.generation_id < 0 or group.state is not MemberState.STABLE:
            raise GroupUnstable("the group is rebalancing")
        self._publisher.publish(messages, offsets, group, self._consumer)
        for part in current:
            self._positions.unmarked.pop(part.partition, None)

    def read_again(self, partition: Partition, epoch: int, offset: int) -> int | None:
        """See ``Broker``."""
        if self._epochs.get(partition) != epoch:
            return None
        self._positions.read_from(partition, offset)
        return self._epochs[partition]

    def lag(self) -> Mapping[Partition, Lag] | None:
        """See ``Broker``; the client's position moves over control records, so a drained partition has lag 0.

        The end is requested from the broker: a paused partition is not fetched, and its high watermark stands still.
        """
        stopped = self._positions.stopped
        try:
            ends = self._positions.ends(self._epochs)
            watermarks = {partition: self._consumer.highwater(TopicPartition(*partition)) or 0 for partition in ends}
        except errors.KafkaError:
            return None
        return {
            partition: Lag(max(0, end - position), max(0, watermarks[partition] - end), partition in stopped)
            for partition, end in ends.items()
            if (position := self._positions.offset(partition)) is not None
        }

    @silent_client()  # it logs errors for requests that the end cuts short
    def close(self) -> None:
        """See ``Broker``."""
        consumer, self._consumer = self._consumer, None
        self._epochs.clear()
        self._publisher.close()
        if consumer is not None:
            close_consumer(consumer, 2000)

    def _prepare_consumer(self) -> None:
        """Teach the new consumer what kafka-python's own does not do."""
        read_leniently(self._consumer, self._allowance)
        _fetch_in_time(self._consumer, self._settings.fetch_max_bytes)
        self._positions = Positions(
            self._consumer,
            self._settings,
            self._metrics,
            epochs=self._epochs,
            renew=self._renew,
            has_published=self._has_published,
            lost=self._note_lost,
            changed=self._note_changed,
        )

    def _committed_offset(self, part: Progress) -> Any:
        return OffsetAndMetadata(part.next_offset, self._positions.mark(part.partition), part.leader_epoch)

    def _commit_unmarked(self) -> None:
        """Commit positions to which nothing that is answered has led.

        Now and then only: in a rebalance that this member does not know of yet, a commit makes it join anew.
        """
        unmarked = self._positions.unmarked
        for partition in unmarked.keys() - self._epochs.keys():
            del unmarked[partition]
        if not unmarked:
            self._mark_at = time.monotonic() + _MARK_EVERY_S
        elif self.joined() and time.monotonic() >= self._mark_at:
            self._mark_at = time.monotonic() + _MARK_EVERY_S
            parts = [Progress(partition, self._epochs[partition], offset, ()) for partition, offset in unmarked.items()]
            try:
                with self._watchdog.guard("publish"):
                    self.publish(parts)
            except PublishAborted as error:
                _log.debug("position not committed, retrying", why=str(error))

    def _renew(self, partition: Partition) -> None:
        self._epochs[partition] = self._next_epoch()

    def _has_published(self) -> bool:
        return any(self._positions.ends(self._verdicts).values())

    def _note_lost(self, partition: Partition, first: int, after: int) -> None:
        """Hear of offsets that were removed before they were read."""

    def _note_changed(self, what: Change, partition: Partition) -> None:  # noqa: ARG002 - a replay asks what
        """Hear of a log that is not the one that was read before: its offsets mean other records now."""
        if self._allowance.guard is not None:
            self._allowance.guard.forget(partition)

    def _next_epoch(self) -> int:
        self._assignments += 1
        return self._assignments

    def _check_member(self) -> None:
        """Raise if the group gave this consumer a new identity without reporting the old one's partitions as lost.

        kafka-python calls no listener when a member is unknown in the middle of a rebalance
        (``_on_join_prepare_async`` is skipped): positions and events in flight would be those of the old identity.
        """
        member = self._consumer.group_metadata().member_id
        if member != self._member and self._member and not self._listener.lost:
            raise Fenced("the consumer group has removed this member; a restart joins it again")
        self._member, self._listener.lost = member, False

    def _release_stalled_fetch(self) -> None:
        """Let the client return to partitions that were paused while it held records of them.

        kafka-python (3.0.12) sets such records aside and returns to them when no other records are in line. But used-up
        records stay in line until another fetch brings something: at the end of a topic, the records set aside would
        never be returned.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 - no public access to what is in line
        in_line = fetcher._next_partition_records  # noqa: SLF001 - the used-up records
        if in_line is not None and not in_line:
            fetcher._next_partition_records = None  # noqa: SLF001 - what the fetcher does itself after another fetch

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let a poll return records of the partition that has waited longest, of those that the client holds some of.

        kafka-python (3.0.12) returns everything that it has fetched of one partition, which may be tens of thousands of
        records, before it looks at another: those of that one would wait for the backlog of this one. So the others are
        paused for the poll; nothing is fetched for a partition with records in hand anyway.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 - no public access to what is in hand
        in_line, parsed = fetcher._next_partition_records, fetcher._paused_partition_records  # noqa: SLF001 - see above
        held = {fetch.topic_partition for fetch in fetcher._completed_fetches.copy()}  # noqa: SLF001 - see above
        held |= {*fetcher._paused_completed_fetches, *parsed}  # noqa: SLF001 - see above
        if in_line:
            held.add(in_line.topic_partition)
        ready = held - self._consumer.paused()
        if len(ready) < 2:
            yield
            return
        first = min(ready, key=lambda tp: self._polled.get(tp, 0))
        self._polled[first] = self._polls  # also if what it has is of aborted transactions
        if in_line and in_line.topic_partition != first:  # as the fetcher does with one that is paused
            parsed[in_line.topic_partition] = in_line
            fetcher._next_partition_records = None  # noqa: SLF001 - see above
        others = ready - {first}
        self._consumer.pause(*others)
        try:
            yield
        finally:
            if others := others & self._consumer.assignment():
                self._consumer.resume(*others)

    def _limit_set_aside(self) -> None:
        """Drop records of paused partitions beyond a few fetches' worth; they are fetched again.

        kafka-python (3.0.12) sets a response aside for each partition that was paused after it was requested. Those of
        the retry topic go first: they may have to wait for long.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 - no public access to what is set aside
        parsed, raw = fetcher._paused_partition_records, fetcher._paused_completed_fetches  # noqa: SLF001 - see above
        sizes = {tp: part.fetched_bytes for tp, part in parsed.items()}
        sizes |= {tp: len(completion.partition_data.records or b"") for tp, completion in raw.items()}
        left = _MOST_SET_ASIDE * self._settings.fetch_max_bytes
        for tp in sorted(sizes, key=lambda tp: tp.topic == self._settings.retry_topic):
            left -= sizes[tp]
            if left < 0:
                raw.pop(tp, None)
                if part := parsed.pop(tp, None):
                    part.drain()

    def _await_join(self) -> None:
        """Have the next ``poll`` read the group's answer to a join, though it has come since the last one.

        kafka-python (3.0.12, ``join_group_async``) would leave it unread and join again, which makes the whole group
        rebalance: two members that poll by turns do so for ever. After a rejoin for changed metadata it would not even
        join again, and poll on without a heartbeat, for partitions that the group may have given to others.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - no public way to await a join
        if (join := coordinator._join_task) is not None:  # noqa: SLF001 - see above
            coordinator._join_task = join if isinstance(join, _Join) else _Join(join)  # noqa: SLF001 - see above
            coordinator.request_rejoin()

    def _rejoin(self) -> None:
        """Have the group rebalance once this member is back under the name that it had before (``instance_id``).

        The broker gives it the assignment of its predecessor, and asks nobody. If that one was killed when it had been
        told to leave partitions and had not joined again, so that others get them, these would belong to no one.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - no public way to rejoin
        # Stable, since the end of a join that is under way would take back the request.
        if self._settings.instance_id is not None and not self._has_rejoined and coordinator.stable():
            self._has_rejoined = True
            coordinator.request_rejoin()

    def _stuck_at(self) -> str:
        """Position of the client after a failed poll, as topic/partition/offset."""
        records = self._consumer._fetcher._next_partition_records  # noqa: SLF001 - no public position after a failure
        if not records:
            return "unknown position"
        tp = records.topic_partition
        return f"{tp.topic}/{tp.partition}/{records.next_fetch_offset}"


def _record(partition: Partition, epoch: int, topic_id: str | None, found: Any) -> Record:
    """A record of kafka-python as the worker's."""
    headers = found.headers
    record = Record(
        partition,
        found.offset,
        epoch,
        found.timestamp,
        found.key,
        found.value,
        tuple(headers),
        amplified=isinstance(headers, AmplifiedHeaders),
        topic_id=topic_id,
        leader_epoch=found.leader_epoch,
        is_broker_time=found.timestamp_type == _LOG_APPEND_TIME,
    )
    if isinstance(headers, Unread):
        return replace(record, unread=headers.why, count=headers.last_offset - found.offset + 1)
    return record


def _fetch_in_time(consumer: Any, most_bytes: int) -> None:
    """Make a ``KafkaConsumer`` send a fetch only when it holds no records, with a wait that suits its partitions.

    All its fetches together ask for ``most_bytes``: those of several brokers may come in at once. A broker returns a
    single batch that is larger all the same.

    kafka-python (3.0.12) has one fetch at a time for each broker, for the partitions of which it holds no records;
    events of the others wait until that fetch is answered. It checks that it holds no records, and then has its own
    thread send the fetch. If a response comes in between, the fetch is for the remaining partitions only, which are
    often empty, while those with events wait for half a second. So that thread checks again.

    Each fetch costs the worker and the broker a millisecond or two, so one for all partitions may wait longer.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - no public hook before a fetch
    send = fetcher._send_fetches_async  # noqa: SLF001 - what is wrapped

    async def send_in_time() -> Any:
        if fetcher._completed_fetches:  # noqa: SLF001 - whether it has anything in hand
            return []
        fetchable = fetcher._fetchable_partitions()  # noqa: SLF001 - those that the fetch would be for
        is_for_all = len(fetchable) == len(consumer.assignment())
        fetcher.config["fetch_max_wait_ms"] = _LONG_FETCH_MS if is_for_all else _SHORT_FETCH_MS
        leaders = {consumer._cluster.leader_for_partition(tp) for tp in consumer.assignment()}  # noqa: SLF001 - see above
        fetcher.config["fetch_max_bytes"] = most_bytes // max(1, len(leaders))
        return await send()

    fetcher._send_fetches_async = send_in_time  # noqa: SLF001 - wraps it


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps the epochs of owned partitions; runs on the client's own thread and must not block."""

    def __init__(self, epochs: dict[Partition, int], next_epoch: Any, metrics: Metrics) -> None:
        self._epochs = epochs
        self._next_epoch = next_epoch
        self._metrics = metrics
        self.lost = False
        """Whether partitions were lost since this was last set to False."""

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self._metrics.rebalances.labels("assigned").inc()
        for tp in assigned:
            self._epochs.setdefault(Partition(*tp), self._next_epoch())

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        self._metrics.rebalances.labels("revoked").inc()
        self._forget(revoked)

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        self._metrics.rebalances.labels("lost").inc()
        self.lost = True
        self._forget(lost)

    def _forget(self, gone: Collection[Any]) -> None:
        for tp in gone:
            self._epochs.pop(Partition(*tp), None)

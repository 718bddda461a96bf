"""Where each partition is read from: what the group has committed, held against what the log is now.

Beside each offset the worker commits a mark of its own with the id of the topic, and the leader epoch of the last
record. When a partition is assigned, and while it is read, they tell apart what kafka-python's ``auto_offset_reset``
treats alike:

- no offset yet: the partition is read from its beginning, and its offset is committed at once, so that it is never
  *no offset yet* again. If there are verdicts already, the offsets have expired or were deleted (``vanished``), or the
  group is another;
- an offset that this software did not write (``foreign``): somebody else moved it. It is marked as ours at once;
- records that retention removed before they were read: their number is counted, and reading goes on behind them;
- a topic that was deleted and made again: it is read from its beginning. What was read of it before the client's
  metadata showed that (kafka-python fetches by the topic's name), is answered twice;
- a log that lost its end (an unclean leader election): reading goes back to where the lost records began;
- an offset beyond the end of a log that gives no such evidence: ``kafka.beyond_end`` decides.

Each of them is a line in the log and a metric, and a partition that has to wait for any of this holds up no other.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from kafka import TopicPartition, errors
from kafka.structs import OffsetAndMetadata

from worker.messages.records import Partition
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

POSITION_ERRORS = (errors.OffsetOutOfRangeError, errors.LogTruncationError)
"""What a consumer without ``auto_offset_reset`` raises when the position of a partition is not valid."""

_OURS: Mapping[str, object] = {"by": "genprint"}
_TIMEOUT_MS = 2_000
_NO_TOPIC_ID = 0

Found = Literal["committed", "foreign", "new", "vanished"]
Change = Literal["topic_made_again", "log_cut", "beyond_end"]


def mark(topic_id: str | None, more: Mapping[str, object] | None = None) -> str:
    """The metadata to commit beside an offset."""
    return json.dumps({**_OURS, "topic_id": topic_id, **(more or {})})


def read_metadata(metadata: str | None) -> dict[str, Any]:
    """The JSON object beside an offset; empty where there is none."""
    try:
        found = json.loads(metadata or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Positions:
    """The positions of one consumer, which has ``auto_offset_reset="none"``.

    Used by the thread that owns the broker, except for ``_refresh``, which the client runs on its own.

    Args:
        consumer: a ``KafkaConsumer``.
        settings: of the same.
        metrics: where findings are counted.
        epochs: assignments of the owned partitions.
        renew: gives a partition another epoch, so that nothing that is in flight of it is published any more.
        has_published: whether there are verdicts already; asked only if a partition has no offset.
        lost: told of offsets that were removed before they were read, from the first to the one after the last.
        changed: told of partitions whose log is not the one that was read before, ahead of what is done about it.
    """

    def __init__(
        self,
        consumer: Any,
        settings: KafkaSettings,
        metrics: Metrics,
        *,
        epochs: Mapping[Partition, int],
        renew: Callable[[Partition], None],
        has_published: Callable[[], bool],
        lost: Callable[[Partition, int, int], None],
        changed: Callable[[Change, Partition], None],
    ) -> None:
        self.unmarked: dict[Partition, int] = {}
        """Offsets to commit with our mark although nothing was answered."""
        self.marks: dict[Partition, dict[str, Any]] = {}
        """The metadata that stood beside the offset of a partition when it was assigned."""
        self._consumer = consumer
        self._settings = settings
        self._metrics = metrics
        self._epochs = epochs
        self._renew = renew
        self._has_published = has_published
        self._lost = lost
        self._tell_changed = changed
        self._coordinator = consumer._coordinator  # noqa: SLF001 - no public way to read the metadata of offsets
        self._subscription = consumer._subscription  # noqa: SLF001 - no public way to seek to an offset with its epoch
        self._cluster = consumer._cluster  # noqa: SLF001 - no public way to the ids of topics
        self._coordinator.refresh_committed_offsets_if_needed_async = self._refresh
        self._subscription.reset_missing_positions = lambda: None  # it would raise for all if one has no offset
        self._topic_ids: dict[str, str] = {}
        self._left_ids: set[str] = set()
        self._committed: dict[Partition, Any] = {}
        self._made_again: set[Partition] = set()
        self._without_offset: set[Partition] = set()
        self._read: dict[Partition, int] = {}
        self._stopped: dict[Partition, int] = {}
        self._asked: dict[Partition, tuple[int, Any]] = {}

    def topic_id(self, topic: str) -> str | None:
        """The id of the topic that is being read, in hexadecimal; None where the broker gives none."""
        return self._topic_ids.get(topic)

    def mark(self, partition: Partition, more: Mapping[str, object] | None = None) -> str:
        """The metadata to commit beside an offset of a partition."""
        return mark(self.topic_id(partition.topic), more)

    def offset(self, partition: Partition) -> int | None:
        """The offset of the next record to be read; None while it is not known."""
        state = self._subscription.assignment.get(TopicPartition(*partition))
        return None if state is None or state.position is None else int(state.position.offset)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offsets behind the last records that can be read, of partitions that have a leader now.

        Raises:
            KafkaError: no answer in time.
        """
        return self._ask(self._consumer.end_offsets, partitions)

    @property
    def stopped(self) -> frozenset[Partition]:
        """Owned partitions that are not read, since their offset lies beyond their end."""
        return frozenset(partition for partition, _ in self._stopped.items() & self._epochs.items())

    def read_from(self, partition: Partition, offset: int) -> None:
        """Read from another place of the log, and publish nothing more of what was read before."""
        self._renew(partition)
        self._consumer.seek(TopicPartition(*partition), offset)

    def note_read(self, partitions: Iterable[Partition]) -> None:
        """Note that records of these partitions were handed on."""
        for partition in partitions:
            self._read[partition] = self._epochs[partition]

    def check(self) -> frozenset[str]:
        """Look at what the client has learnt since the last call; the topics that turned out to be made again.

        Records that were read of those, but not handed on yet, may be of the wrong place.
        """
        made_again = frozenset(filter(self._is_made_again, {partition.topic for partition in self._epochs}))
        for topic in made_again:
            self._left_ids.add(self._topic_ids[topic])
            self._topic_ids[topic] = self._current_id(topic) or ""
        begun_again = {partition for partition in self._epochs if partition.topic in made_again}
        for partition in begun_again | (self._made_again & self._epochs.keys()):
            self._begin_again(partition)
        self._made_again.clear()
        for partition in list(self._committed):
            committed = self._committed.pop(partition)
            if partition not in begun_again:
                self._report_found(partition, committed)
        self._without_offset &= self._epochs.keys() - begun_again
        if self._without_offset:
            with _retrying():
                self._begin(self._without_offset)
        return made_again

    def mend(self, error: errors.KafkaError) -> None:
        """Find another position for the partitions that one of ``POSITION_ERRORS`` names.

        Where the broker gives no answer, the client will raise the same error again.
        """
        with _retrying():
            match error:
                case errors.OffsetOutOfRangeError():
                    for tp, offset in error.args[0].items():
                        self._leave_gap(Partition(*tp), offset)
                case errors.LogTruncationError():
                    for tp, diverging in error.divergent_offsets.items():
                        self._go_back(Partition(*tp), diverging)

    async def _refresh(self, timeout_ms: float | None = None) -> bool:
        """Position partitions at their committed offsets, with the leader epoch; False if there was no answer in time.

        In place of ``ConsumerCoordinator.refresh_committed_offsets_if_needed_async`` (3.0.12), which drops the epoch
        and the metadata.
        """
        missing = set(self._subscription.missing_fetch_positions())
        try:
            found = await self._coordinator.fetch_committed_offsets_async(missing, timeout_ms=timeout_ms)
        except errors.KafkaTimeoutError:
            return False
        self._without_offset = {Partition(*tp) for tp in missing - found.keys()}
        for tp, committed in found.items():
            partition = Partition(*tp)
            if not self._subscription.is_assigned(tp):
                continue
            noted = read_metadata(committed.metadata).get("topic_id")
            topic_id = self._current_id(partition.topic)
            if noted and topic_id and noted != topic_id:
                self._made_again.add(partition)
                continue
            self._subscription.seek(tp, OffsetAndMetadata(committed.offset, "", committed.leader_epoch))
            self._committed[partition] = committed
        return True

    def _report_found(self, partition: Partition, committed: Any) -> None:
        noted = read_metadata(committed.metadata)
        is_ours = _OURS.items() <= noted.items()
        if not is_ours:
            _log.warning(
                "an offset that this software did not write",
                partition=str(partition),
                offset=committed.offset,
                group=self._settings.group_id,
            )
            self.unmarked[partition] = committed.offset
        self.marks[partition] = noted
        self._count_found("committed" if is_ours else "foreign")

    def _begin(self, partitions: Collection[Partition]) -> None:
        """Position partitions for which the group has committed no offset, as far as the broker tells where."""
        first = self._ask(self._consumer.beginning_offsets, partitions)
        last = self.ends(first)
        written = {partition for partition, end in last.items() if end > 0}
        is_known = bool(written) and self._has_published()
        vanished = {topic for topic in {p.topic for p in written} if is_known and not self._has_offsets(topic)}
        for partition in last:
            has_vanished = partition in written and partition.topic in vanished
            if has_vanished:
                _log.warning(
                    "there are verdicts already, and the group has no offset here: it is new, or its offsets have "
                    "expired or were deleted",
                    partition=str(partition),
                    reading_from=first[partition],
                    group=self._settings.group_id,
                )
            self._count_found("vanished" if has_vanished else "new")
            self._consumer.seek(TopicPartition(*partition), first[partition])
            self.unmarked[partition] = first[partition]
            self._without_offset.discard(partition)

    def _has_offsets(self, topic: str) -> bool:
        """Whether the group has an offset for any partition of the topic, so that the others were added."""
        numbers = self._consumer.partitions_for_topic(topic) or ()
        every = [TopicPartition(topic, number) for number in numbers]
        return bool(every and self._coordinator.fetch_committed_offsets(every, timeout_ms=_TIMEOUT_MS))

    def _ask(self, offsets: Callable[..., Any], partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Offsets of partitions, but for those that have no leader: kafka-python (3.0.12) stumbles over these."""
        every = [TopicPartition(*partition) for partition in sorted(partitions)]
        led = [tp for tp in every if self._cluster.leader_for_partition(tp) != -1]
        try:
            found = offsets(led, timeout_ms=_TIMEOUT_MS) if led else {}
        except KeyError as error:  # a leader has just gone
            raise errors.LeaderNotAvailableError(str(error)) from error
        return {Partition(*tp): offset for tp, offset in found.items()}

    def _begin_again(self, partition: Partition) -> None:
        """Read a topic that was made again from its beginning."""
        self._changed("topic_made_again", partition, topic_id=self._current_id(partition.topic), reading_from=0)
        self._move(partition, 0)

    def _leave_gap(self, partition: Partition, offset: int) -> None:
        """Go on behind records that were removed, or do what the settings say if there are none at that offset yet."""
        if self.offset(partition) != offset or not self._knows_the_present(partition, offset):
            return
        tp = TopicPartition(*partition)
        first = self._ask(self._consumer.beginning_offsets, [partition]).get(partition)
        if first is None:
            return
        if offset >= first:
            self._beyond_end(partition, offset)
            return
        _log.error(
            "records were removed before they were read",
            partition=str(partition),
            lost=first - offset,
            first_lost=offset,
            reading_from=first,
        )
        self._metrics.records_lost.labels(partition.topic).inc(first - offset)
        self._lost(partition, offset, first)
        if self._read.get(partition) != self._epochs.get(partition):  # so that nothing of it is in flight
            self.unmarked[partition] = first
        self._consumer.seek(tp, first)

    def _go_back(self, partition: Partition, diverging: Any) -> None:
        """Read again from where the log was cut: what stands there now is answered by nobody."""
        offset = self.offset(partition)
        if offset is None:
            return
        self._cluster.request_update()  # a topic that was made again may look like this, until `check` sees it
        if diverging is None:
            self._beyond_end(partition, offset)
            return
        tp = TopicPartition(*partition)
        committed = self._consumer.committed(tp, timeout_ms=_TIMEOUT_MS)
        target = min(diverging.offset, offset if committed is None else committed)
        self._changed("log_cut", partition, cut_at=diverging.offset, was_at=offset, reading_from=target)
        self._move(partition, target)

    def _beyond_end(self, partition: Partition, offset: int) -> None:
        choice = self._settings.beyond_end
        ask = self._consumer.beginning_offsets if choice == "beginning" else self._consumer.end_offsets
        target = self._ask(ask, [partition]).get(partition)
        if target is None:
            return
        self._changed("beyond_end", partition, was_at=offset, beyond_end=choice, there=target)
        if choice == "stop":
            self._consumer.pause(TopicPartition(*partition))
            self._stopped[partition] = self._epochs[partition]
        else:
            self._move(partition, target)

    def _move(self, partition: Partition, offset: int) -> None:
        """Read from another place of the log, and commit that at once."""
        self.read_from(partition, offset)
        self.unmarked[partition] = offset

    def _knows_the_present(self, partition: Partition, offset: int) -> bool:
        """Whether the client's metadata are newer than this doubt; the topic may have been made again."""
        doubted, update = self._asked.get(partition, (-1, None))
        if update is None or doubted != offset or update.failed():
            self._asked[partition] = offset, self._cluster.request_update()
            return False
        if not update.is_done:
            return False
        del self._asked[partition]
        return not self._is_made_again(partition.topic)

    def _is_made_again(self, topic: str) -> bool:
        """Whether it has another id than the one that is being read; brokers that lag behind still tell an old one."""
        now = self._current_id(topic)
        return now is not None and now not in self._left_ids and self._topic_ids.setdefault(topic, now) != now

    def _current_id(self, topic: str) -> str | None:
        found = self._cluster.topic_id(topic)
        return None if found is None or found.int == _NO_TOPIC_ID else str(found.hex)

    def _count_found(self, found: Found) -> None:
        self._metrics.positions.labels(found).inc()

    def _changed(self, what: Change, partition: Partition, **facts: object) -> None:
        messages: Mapping[Change, str] = {
            "topic_made_again": "the topic was made again",
            "log_cut": "the log has lost its end",
            "beyond_end": "the offset lies beyond the end of the log",
        }
        self._metrics.log_changes.labels(what).inc()
        _log.error(messages[what], partition=str(partition), **facts)
        self._tell_changed(what, partition)


@contextmanager
def _retrying() -> Iterator[None]:
    try:
        yield
    except errors.KafkaError as error:
        _log.warning("no position found yet, retrying", why=str(error))

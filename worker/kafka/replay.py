"""Replay of a bounded span of a topic over kafka-python, by a consumer group of its own.

The group's committed offsets are the progress, and their metadata holds the span, so that a run that was stopped
goes on where it was, to the end that it had when it began.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from worker.errors import BrokerError, LogChanged, PublishAborted, StartupError, TopicMissing
from worker.kafka.client import KafkaBroker
from worker.kafka.closing import close_consumer
from worker.kafka.connection import connect, reach, silent_client, start_error
from worker.kafka.positions import Change, mark, read_metadata
from worker.kafka.span import Point, Span
from worker.kafka.topic_configs import topic_configs, topic_limit
from worker.messages.records import BatchGuard, Partition, Progress, Record
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

_CHECK_EVERY_S = 0.5
_TIMEOUT_MS = 2_000

OffsetRanges = Mapping[Partition, tuple[int, int]]
"""Partition -> its first offset in the run, and the one after its last."""


class ReplayBroker(KafkaBroker):
    """``Broker`` that gives the records of a span and reports when all of them are answered.

    Args:
        settings: with a group and a retry topic of the replay's own; the topic is created if it does not exist.
        metrics: as for any worker.
        span: the span to read.
        finished: called when every event of the span that could be read has its committed answer, deferred ones
            included, with the number of offsets that were removed before they were read.
        progress: called now and then with the number of offsets in the span, and of those that are left.
        guard: remembers the batch that is being unpacked.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        metrics: Metrics,
        span: Span,
        finished: Callable[[int], None],
        progress: Callable[[int, int], None],
        guard: BatchGuard | None = None,
    ) -> None:
        super().__init__(settings, metrics, guard)
        self._span = span
        self._finished = finished
        self._progress = progress
        self._ranges: OffsetRanges = {}
        self._delivered: dict[tuple[Partition, int], int] = {}  # by partition and epoch: the offset after the last
        self._reached: set[Partition] = set()
        self._check_at = 0.0

    @silent_client()
    def start(self) -> None:
        """See ``Broker``.

        Raises:
            StartupError: the topic does not hold the span (any more), or the run was begun with another span.
        """
        reach(self._settings)
        try:
            self._ranges = self._prepare()
        except errors.KafkaError as error:
            raise start_error(error, self._settings) from error
        super().start()

    def poll(self, timeout_s: float) -> list[Record]:
        """See ``Broker``."""
        records = []
        for found in super().poll(timeout_s):
            end = self._end(found.partition)
            if found.next_offset > end:
                self._reached.add(found.partition)
            if found.offset < end:
                # A batch that is answered as one may go beyond the span.
                record = replace(found, count=int(min(found.next_offset, end)) - found.offset)
                records.append(record)
                self._delivered[record.partition, record.epoch] = record.next_offset
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + _CHECK_EVERY_S
            self._check_progress()
        return records

    def pause(self, partitions: Collection[Partition]) -> None:
        """See ``Broker``; a partition that has reached its end stays paused."""
        super().pause({*partitions, *(self._reached & self.owned().keys())})

    def read_again(self, partition: Partition, epoch: int, offset: int) -> int | None:
        """See ``Broker``."""
        self._reached.discard(partition)
        return super().read_again(partition, epoch, offset)

    def _committed_offset(self, part: Progress) -> OffsetAndMetadata:
        offset = super()._committed_offset(part)
        span = self._ranges.get(part.partition)
        noted = self._noted(span) if span else {}
        noted["lost"] = self._positions.marks.get(part.partition, {}).get("lost", 0)
        return offset._replace(metadata=self._positions.mark(part.partition, noted))

    def _note_lost(self, partition: Partition, first: int, after: int) -> None:
        """Remember how many offsets of the span, or of its deferred events, are gone; committed with the offset."""
        begin = self._ranges.get(partition, (0, 0))[0]
        noted = self._positions.marks.setdefault(partition, {})
        noted["lost"] = noted.get("lost", 0) + max(0, int(min(after, self._end(partition))) - max(first, begin))

    def _note_changed(self, what: Change, partition: Partition) -> None:
        raise LogChanged(
            f"{partition}: {what.replace('_', ' ')} since the run began; "
            "what is there now is another span: start another run"
        )

    def _check_progress(self) -> None:
        """Commit offsets up to which no event is left, report progress, and finish when everything is answered."""
        if not self.joined():
            return
        try:
            # Offsets before ends: a deferral that another process commits in between is then seen at least once.
            committed = self._committed()
            ends = self._ends()
            self.publish([part for partition in self.owned() if (part := self._drained(partition, committed))])
        except (errors.KafkaError, PublishAborted) as error:
            _log.info("progress check failed, retrying", why=str(error))
            return
        left = {partition: max(0, end - _offset(committed[partition])) for partition, end in ends.items()}
        total = sum(end - begin for begin, end in self._ranges.values())
        self._progress(total, sum(left[partition] for partition in self._ranges))
        if not any(left.values()):
            self._finished(sum(_metadata(found).get("lost", 0) for found in committed.values()))

    def _drained(self, partition: Partition, committed: Mapping[Partition, Any]) -> Progress | None:
        """The commit of a partition that has given all its records; only transaction markers precede its end."""
        epoch = self.owned().get(partition)
        position = self._positions.offset(partition)
        if epoch is None or position is None:
            return None
        end = self._end(partition)
        if position >= end:
            self._reached.add(partition)
        elif partition in self._ranges:
            return None
        target = int(min(position, end))
        before = _offset(committed.get(partition))
        if before >= target or self._delivered.get((partition, epoch), 0) > before:
            return None
        return Progress(partition, epoch, target, ())

    def _retries(self) -> list[TopicPartition]:
        topic = self._settings.retry_topic
        return [TopicPartition(topic, number) for number in _numbers(self._consumer, topic)]

    def _committed(self) -> dict[Partition, Any]:
        """Committed offsets of the whole run with their metadata, also of partitions that other workers own."""
        partitions = [*self._retries(), *(TopicPartition(*partition) for partition in self._ranges)]
        return {
            Partition(*tp): self._consumer.committed(tp, metadata=True, timeout_ms=_TIMEOUT_MS) for tp in partitions
        }

    def _ends(self) -> dict[Partition, int]:
        """The offsets up to which the whole run must be committed."""
        retries = [Partition(*tp) for tp in self._retries()]
        ends = self._positions.ends(retries)
        if len(ends) < len(retries):
            raise errors.LeaderNotAvailableError(self._settings.retry_topic)
        return ends | {partition: end for partition, (_, end) in self._ranges.items()}

    def _end(self, partition: Partition) -> float:
        """The first offset that is not read: infinity for the retry topic, 0 for a partition outside the span."""
        if partition.topic == self._settings.retry_topic:
            return float("inf")
        return self._ranges.get(partition, (0, 0))[1]

    def _prepare(self) -> OffsetRanges:
        """The ranges that this run was begun with; begins it if it is new."""
        s = self._settings
        consumer = connect(
            KafkaConsumer, s, group_id=s.group_id, enable_auto_commit=False, isolation_level="read_committed"
        )
        try:
            numbers = _numbers(consumer, s.images_topic)
            self._make_retry_topic(consumer, len(numbers))
            partitions = [Partition(s.images_topic, number) for number in numbers]
            begun = {partition: found for partition in partitions if (found := self._begun(consumer, partition))}
            if begun:
                return begun
            ranges = self._resolve(consumer, self._span.partitions(numbers, s.images_topic))
            offsets = {
                TopicPartition(*partition): OffsetAndMetadata(span[0], mark(None, self._noted(span)), -1)
                for partition, span in ranges.items()
            }
            consumer.assign(list(offsets))
            consumer.commit(offsets, timeout_ms=int(s.start_timeout_s * 1000))
            return ranges
        finally:
            close_consumer(consumer)

    def _begun(self, consumer: Any, partition: Partition) -> tuple[int, int] | None:
        # A killed process may have left a transaction open; its offsets are given only when that has timed out.
        timeout_ms = int((self._settings.start_timeout_s + self._settings.transaction_timeout_s) * 1000)
        found = consumer.committed(TopicPartition(*partition), metadata=True, timeout_ms=timeout_ms)
        noted = _metadata(found)
        if "begin" not in noted:
            return None
        if (noted["from"], noted["to"]) != (self._span.start.text, self._span.end.text):
            raise StartupError(
                f"this run was begun with --from {noted['from']} --to {noted['to']}; "
                "pass the same again to go on, or another --run-id"
            )
        return noted["begin"], noted["end"]

    def _noted(self, span: tuple[int, int]) -> dict[str, object]:
        """What is committed beside an offset, so that another process can go on."""
        begin, end = span
        return {"begin": begin, "end": end, "from": self._span.start.text, "to": self._span.end.text}

    def _resolve(self, consumer: Any, numbers: Collection[int]) -> OffsetRanges:
        topic = self._settings.images_topic
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        first = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        last = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)

        def offsets(point: Point) -> dict[TopicPartition, int]:
            if point.offsets is not None:
                return {tp: point.offsets[tp.partition] for tp in partitions}
            if point.edge is not None:
                return dict(first if point.edge == "earliest" else last)
            found = consumer.offsets_for_times(dict.fromkeys(partitions, point.at_ms), timeout_ms=_TIMEOUT_MS)
            return {tp: found[tp].offset if found.get(tp) else last[tp] for tp in partitions}

        begin, end = offsets(self._span.start), offsets(self._span.end)
        for tp in partitions:
            if begin[tp] < first[tp]:
                raise StartupError(f"{topic}/{tp.partition}: offset {begin[tp]} is gone, the first is {first[tp]}")
            if end[tp] > last[tp]:
                raise StartupError(f"{topic}/{tp.partition}: --to {end[tp]} is beyond its end, {last[tp]}")
        return {Partition(*tp): (begin[tp], max(begin[tp], end[tp])) for tp in partitions}

    def _make_retry_topic(self, consumer: Any, partitions: int) -> None:
        """Create it with as many partitions as the topic that is read, so that each worker has some of both."""
        name = self._settings.retry_topic
        if name in consumer.topics():
            return
        admin = connect(KafkaAdminClient, self._settings)
        try:
            s = self._settings
            answers = (s.dead_topic, s.verdicts_topic)
            configs = topic_configs(admin, (s.images_topic, *answers))
            # No less than events may have that come, and that may have to be deferred.
            limit = max(topic_limit(configs, topics, s) for topics in ((s.images_topic,), answers))
            topic = {name: {"num_partitions": partitions, "configs": {"max.message.bytes": str(limit)}}}
            admin.create_topics(topic, wait_for_metadata=True)
        except errors.TopicAlreadyExistsError:
            pass
        except errors.KafkaError as error:
            raise BrokerError(
                f"topic {name} cannot be created: {error}; create it with {partitions} partitions, then try again"
            ) from error
        finally:
            admin.close()


def _offset(found: Any) -> int:
    return 0 if found is None else int(found.offset)


def _metadata(found: Any) -> dict[str, Any]:
    return {} if found is None else read_metadata(found.metadata)


def _numbers(consumer: Any, topic: str) -> Sequence[int]:
    """The numbers of a topic's partitions."""
    found = consumer.partitions_for_topic(topic)
    if not found:
        raise TopicMissing(f"no topic {topic}; name one that exists (--topic, kafka.images_topic)")
    return sorted(found)

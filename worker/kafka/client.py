"""Kafka through kafka-python, which only the modules of ``worker.kafka`` import.

Exactly-once rests on an order of steps that kafka-python (3.0.12) alone does not keep; each step closes a hole that was
seen to lose or repeat events:

1. the input consumer is ``read_committed``, so that committed offsets are read with stable offsets;
2. messages and offsets of partitions that were taken away are left out;
3. nothing is published while the group is not stable: with a negative generation the broker would skip its check and
   let a zombie commit, and with a generation whose assignment is not applied yet, for partitions of other workers;
4. every send is resolved before the offsets go in: a batch that times out changes no transaction state;
5. offsets, then commit; if the producer's epoch was bumped meanwhile, a reported commit may not have happened;
6. after a clean abort the same is published again; after an unclear outcome the process ends, since only a restart,
   which reads the committed offsets, can tell.
"""

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.structs import MemberState, OffsetAndMetadata

from worker.errors import (
    BrokerError,
    BrokerUnreachable,
    EventTooLarge,
    Fenced,
    GroupUnstable,
    MessageTooLarge,
    PublishAborted,
    PublishUncertain,
    TopicMissing,
    TopicUnsuitable,
    UndecodableBatch,
)
from worker.kafka.assignor import PerTopicAssignor
from worker.kafka.closing import close_consumer, close_producer
from worker.kafka.connection import (
    ACCESS_DENIED,
    check_topics,
    connect,
    reach,
    setting_of,
    silent_client,
    start_error,
)
from worker.kafka.positions import POSITION_ERRORS, Change, Positions
from worker.kafka.record_batches import Allowance, AmplifiedHeaders, Ceilings, Unread, read_leniently
from worker.messages.records import BatchGuard, Lag, Message, Partition, Progress, Record
from worker.operations.health import Watchdog
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

_BATCH_BYTES = 256 * 1024
_LINGER_MS = 5
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
_TOPIC_LIMIT, _CLEANUP = "max.message.bytes", "cleanup.policy"
_OFFSETS_KEPT, _RECORDS_KEPT = "offsets.retention.minutes", "retention.ms"
_LOG_APPEND_TIME = 1
_UNDECODABLE = (errors.CorruptRecordError, errors.UnsupportedCodecError)
_FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.FencedInstanceIdError)
_CLIENT_ERRORS = (errors.KafkaError, RuntimeError, ValueError, TypeError)
"""Exceptions that kafka-python raises from a transaction: its fatal states are plain RuntimeErrors."""
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


class KafkaBroker:
    """``Broker`` over kafka-python, exactly once by transactions or at least once."""

    def __init__(self, settings: KafkaSettings, metrics: Metrics, guard: BatchGuard | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._transactional = settings.delivery == "exactly_once"
        self._consumer: Any = None
        self._producer: Any = None
        self._positions: Positions  # from the start on
        self._epochs: dict[Partition, int] = {}
        self._assignments = 0
        self._member = ""
        self._listener = _Listener(self._epochs, self._next_epoch, metrics)
        self._max_message_bytes = settings.max_message_bytes
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
        instance = s.instance_id or uuid.uuid4().hex
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
            check_topics(s)
            with closing(connect(KafkaAdminClient, s)) as admin:
                self._max_message_bytes = min(s.max_message_bytes, topic_limit(admin, s))
                [verdicts] = admin.describe_topics([s.verdicts_topic])
                self._verdicts = [Partition(s.verdicts_topic, number) for number in range(len(verdicts["partitions"]))]
                require_suitable_topics(admin, s)
                warn_of_short_memory(admin, s)
            self._producer = connect(
                KafkaProducer,
                s,
                **producer_options(s, self._max_message_bytes),
                **self._transaction_options(f"{s.group_id}-{instance}"),
            )
            if self._transactional:
                _retry_dropped_request(self._producer)
                self._producer.init_transactions()  # also ends one that an earlier process of this identity left open
            topics = [s.images_topic, s.retry_topic]
            self._consumer.subscribe(topics, listener=self._listener)
        except errors.KafkaError as error:
            raise start_error(error, s) from error

    def poll(self, timeout_s: float) -> list[Record]:
        """See ``Broker``."""
        self._release_stalled_fetch()
        self._allowance.begin_poll()
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except _UNDECODABLE as error:
            raise UndecodableBatch(f"{self._stuck_at()}: {error}") from error
        except ACCESS_DENIED as error:
            raise start_error(error, self._settings) from error
        except POSITION_ERRORS as error:
            self._reposition(error)
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
        self._finish_rebalance()
        self._limit_set_aside()
        made_again = self._positions.check()
        current = {
            partition: records
            for tp, records in polled.items()
            if (partition := Partition(*tp)) in self._epochs and partition.topic not in made_again
        }
        self._positions.note_read(current)
        self._commit_unmarked()
        return [
            _record(partition, self._epochs[partition], self._positions.topic_id(partition.topic), record)
            for partition, records in current.items()
            for record in records
        ]

    @property
    def max_message_bytes(self) -> int:
        """See ``Broker``."""
        return self._max_message_bytes

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
        if self._transactional:
            self._publish_transaction(messages, offsets, group)
        else:
            self._publish_then_commit(messages, offsets)
        for part in current:
            self._positions.unmarked.pop(part.partition, None)

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
        consumer, producer = self._consumer, self._producer
        self._consumer = self._producer = None
        self._epochs.clear()
        if producer is not None:
            close_producer(producer, 2)
        if consumer is not None:
            close_consumer(consumer, 2000)

    def _prepare_consumer(self) -> None:
        """Teach the new consumer what kafka-python's own does not do."""
        read_leniently(self._consumer, self._allowance)
        _fetch_in_time(self._consumer)
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

    def _reposition(self, error: errors.KafkaError) -> None:
        try:
            self._positions.mend(error)
        except errors.KafkaError as failure:
            _log.warning("no position found yet, retrying", why=str(failure), after=str(error))

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

    def _transaction_options(self, identity: str) -> dict[str, Any]:
        if not self._transactional:
            return {}
        return {
            "transactional_id": identity,
            "transaction_timeout_ms": int(self._settings.transaction_timeout_s * 1000),
            "max_block_ms": int(self._settings.start_timeout_s * 1000),
        }

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

    def _finish_rebalance(self) -> None:
        """Make the client finish a rebalance that it would abandon half-way.

        When changed metadata makes the leader rejoin and ``poll`` returns just before the group's answer, kafka-python
        (3.0.12) never reads that answer: it would poll on for ever, without a heartbeat and without learning that the
        group has given its partitions to others.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - no public way to rejoin
        if not coordinator.need_rejoin() and coordinator.state is MemberState.REBALANCING:
            coordinator.request_rejoin()

    def _publish_transaction(self, messages: list[Message], offsets: dict[Any, Any], group: Any) -> None:
        try:
            self._producer.begin_transaction()
        except _CLIENT_ERRORS as error:
            raise PublishUncertain(f"no transaction could be begun: {error}; a restart goes on") from error
        identity = self._producer._transaction_manager.producer_id_and_epoch  # noqa: SLF001 - see step 5
        try:
            self._send(messages)
            self._producer.send_offsets_to_transaction(offsets, group)
        except (*_CLIENT_ERRORS, MessageTooLarge) as error:
            self._abort(error)
        try:
            self._producer.commit_transaction()
        except _CLIENT_ERRORS as error:
            raise PublishUncertain(f"commit failed: {error}; a restart finds out whether it took place") from error
        if self._producer._transaction_manager.producer_id_and_epoch != identity:  # noqa: SLF001 - see step 5
            # TransactionManager.bump_producer_id_and_epoch completes a pending commit as if it had succeeded.
            raise PublishUncertain(
                "the producer's epoch changed during the commit; a restart finds out whether it took place"
            )

    def _abort(self, cause: Exception) -> None:
        """Abort the transaction, and raise the worker's error for ``cause``."""
        meaning = publish_error(cause)
        if not isinstance(meaning, Fenced):
            try:
                self._producer.abort_transaction()
            except _CLIENT_ERRORS as error:
                raise PublishUncertain(f"abort failed: {error}, after: {cause}; a restart goes on") from error
        if meaning is cause:
            raise cause
        raise meaning from cause

    def _publish_then_commit(self, messages: list[Message], offsets: dict[Any, Any]) -> None:
        try:
            self._send(messages)
            self._consumer.commit(offsets, timeout_ms=int(self._settings.publish_deadline_s * 500))
        except errors.KafkaError as error:
            raise publish_error(error) from error

    def _send(self, messages: list[Message]) -> None:
        """Send all and wait for every acknowledgement."""
        futures = []
        for index, m in enumerate(messages):
            try:
                futures.append(self._producer.send(m.topic, value=m.value, key=m.key, headers=list(m.headers)))
            except _TOO_LARGE as error:
                raise MessageTooLarge(index, str(error)) from error
        timeout_s = self._settings.transaction_timeout_s
        self._producer.flush(timeout=timeout_s)
        for future in futures:
            try:
                future.get(timeout=timeout_s)
            except _TOO_LARGE as error:
                # The producer itself keeps the limit that was read at the start. A refusal by the broker breaks its
                # sequence numbers, so that only a new process, with the new limit, can go on.
                raise PublishUncertain(f"a topic's max.message.bytes was lowered, restart: {error}") from error

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


def _fetch_in_time(consumer: Any) -> None:
    """Make a ``KafkaConsumer`` send a fetch only when it holds no records, with a wait that suits its partitions.

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
        return await send()

    fetcher._send_fetches_async = send_in_time  # noqa: SLF001 - wraps it


def _retry_dropped_request(producer: Any) -> None:
    """Make a transactional ``KafkaProducer`` repeat a request that it was about to send when its connection was lost.

    kafka-python (3.0.12) repeats the request if its client returns that the node is not ready; but the client raises
    instead, and the request is dropped: the transaction stands still until its records or the worker's deadline expire.
    """
    client = producer._sender._client  # noqa: SLF001 - no public hook for a lost connection
    await_ready = client.await_ready

    def is_ready(*args: Any, **options: Any) -> bool:
        try:
            return bool(await_ready(*args, **options))
        except errors.KafkaConnectionError:
            return False

    client.await_ready = is_ready


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


class ImageSender:
    """Writes image events to a topic, for ``genprint produce``."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._futures: list[Any] = []

    def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable, TopicMissing: nothing was sent.
        """
        reach(self._settings)
        try:
            self._producer = connect(
                KafkaProducer,
                self._settings,
                **producer_options(self._settings, self._settings.max_message_bytes),
            )
            if not self._producer.partitions_for(self._settings.images_topic):
                raise TopicMissing(f"no topic {self._settings.images_topic}; create it first (genprint topics create)")
        except errors.KafkaError as error:
            raise start_error(error, self._settings) from error

    def send(self, message: Message) -> None:
        """Queue one event; waits for acknowledgements when many are under way.

        Raises:
            EventTooLarge: names the image.
        """
        m = message
        try:
            self._futures.append(self._producer.send(m.topic, value=m.value, key=m.key, headers=list(m.headers)))
        except _TOO_LARGE as error:
            raise EventTooLarge(f"{(m.key or b'').decode()}: {error}; send a claim check instead") from error
        if len(self._futures) >= 256:
            self.flush()

    def flush(self) -> None:
        """Wait until everything is acknowledged.

        Raises:
            BrokerUnreachable: something was not.
        """
        try:
            for future in self._futures:
                future.get(timeout=self._settings.start_timeout_s)
        except ACCESS_DENIED as error:
            raise start_error(error, self._settings) from error
        except errors.KafkaError as error:
            raise BrokerUnreachable(f"an event was not acknowledged: {error}") from error
        self._futures.clear()

    def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 5)


def producer_options(settings: KafkaSettings, max_message_bytes: int) -> dict[str, Any]:
    """Options of a producer that sends when it is flushed; its delivery time-out is below the transaction's."""
    return {
        "acks": "all",
        "linger_ms": _LINGER_MS,
        "batch_size": min(_BATCH_BYTES, max_message_bytes),
        "max_request_size": max_message_bytes,
        "delivery_timeout_ms": int(settings.transaction_timeout_s * 1000 * 2 / 3),
        "retry_backoff_ms": 10,  # slept in the sender while a transaction marker is being written
    }


def topic_limit(admin: Any, settings: KafkaSettings) -> int:
    """Smallest ``max.message.bytes`` of the topics that a worker writes to; ``kafka.max_message_bytes`` if unknown."""
    topics = (settings.retry_topic, settings.dead_topic, settings.verdicts_topic)
    try:
        found = _topic_configs(admin, topics)
        return min(int(found[topic][_TOPIC_LIMIT]["value"]) for topic in topics)
    except (errors.KafkaError, KeyError) as error:  # not authorised, or a broker that does not know the request
        _log.warning("topic limits unknown", why=str(error), assumed=settings.max_message_bytes)
        return settings.max_message_bytes


def require_suitable_topics(admin: Any, settings: KafkaSettings) -> None:
    """Check, as far as the worker's rights go, that no topic would refuse answers by its settings.

    Raises:
        TopicUnsuitable: names the topic, its setting and what to do.
    """
    retry, images = settings.retry_topic, settings.images_topic
    topics = (images, retry, settings.dead_topic, settings.verdicts_topic)
    try:
        found = {
            topic: {name: entry["value"] for name, entry in configs.items()}
            for topic, configs in _topic_configs(admin, topics).items()
        }
    except errors.KafkaError:
        return
    for topic in topics[1:]:
        if "compact" in (policy := found.get(topic, {}).get(_CLEANUP, "")):
            raise TopicUnsuitable(
                f"{setting_of(topic, settings)}: its {_CLEANUP} is {policy}: the broker would refuse records without a "
                "key, and remove all but the last of one; set it to delete"
            )
    limits = {topic: int(configs[_TOPIC_LIMIT]) for topic, configs in found.items() if _TOPIC_LIMIT in configs}
    if limits.get(images, 0) > limits.get(retry, limits.get(images, 0)):
        raise TopicUnsuitable(
            f"{setting_of(retry, settings)}: its {_TOPIC_LIMIT} is {limits[retry]}, that of "
            f"{setting_of(images, settings)} {limits[images]}: an event that has to be deferred may not fit; "
            "raise it (genprint topics create --update)"
        )


def _topic_configs(admin: Any, topics: Sequence[str]) -> Any:
    names = dict.fromkeys((_TOPIC_LIMIT, _CLEANUP))
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
    return admin.describe_configs(wanted, config_filter="all")["topic"]


def warn_of_short_memory(admin: Any, settings: KafkaSettings) -> None:
    """Warn if the broker forgets the offsets of a group that stands still before the records of its topics are gone.

    After such a pause all records that are still there would be answered again. A broker that does not tell its
    settings (that needs a right on the cluster) is not asked again.
    """
    topics = (settings.images_topic, settings.retry_topic)
    try:
        broker = str(admin.describe_cluster()["brokers"][0]["broker_id"])
        wanted = [ConfigResource(ConfigResourceType.BROKER, broker, {_OFFSETS_KEPT: None})]
        wanted += [ConfigResource(ConfigResourceType.TOPIC, topic, {_RECORDS_KEPT: None}) for topic in topics]
        found = admin.describe_configs(wanted, config_filter="all")
        offsets_kept_s = 60 * int(found["broker"][broker][_OFFSETS_KEPT]["value"])
        kept_ms = {topic: int(found["topic"][topic][_RECORDS_KEPT]["value"]) for topic in topics}
    except (errors.KafkaError, KeyError, IndexError) as error:
        _log.debug("retention of offsets unknown", why=str(error))
        return
    for topic, records_kept_ms in kept_ms.items():
        if records_kept_ms < 0 or records_kept_ms > 1000 * offsets_kept_s:
            _log.warning(
                "the broker forgets offsets before records: after a pause as long as that, all are answered again",
                topic=topic,
                records_kept_s=records_kept_ms // 1000 if records_kept_ms >= 0 else "for ever",
                offsets_kept_s=offsets_kept_s,
                remedy=f"raise the broker's {_OFFSETS_KEPT}, or lower the topic's {_RECORDS_KEPT}",
            )


def publish_error(error: Exception) -> BrokerError:
    """The worker's error for a failure before the commit: one to retry, or one that ends the process."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, _FENCED) or "UnknownMemberId" in str(error):
        return Fenced(f"another process took over; give each worker its own kafka.instance_id: {error}")
    if isinstance(error, ACCESS_DENIED):
        return BrokerUnreachable(f"the broker denied access: {error}")
    return PublishAborted(str(error))

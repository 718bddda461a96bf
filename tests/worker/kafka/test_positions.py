"""Records that were removed, offsets that vanished or were moved, topics that were made again: none of it is silent."""

import json
import struct
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer, errors
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.topics import create_topics
from tests.worker.messages.edges import PARTITIONS, KafkaEdge, until
from worker.kafka.client import KafkaBroker
from worker.kafka.topic_configs import check_settings
from worker.messages.records import Lag, Message, Partition, Progress, Record
from worker.settings import KafkaSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def edge(apache_kafka: ApacheKafka) -> Iterator[KafkaEdge]:
    with closing(KafkaEdge(apache_kafka.bootstrap, atomic=True, rebalances=True)) as edge:
        yield edge


@pytest.fixture
def admin(apache_kafka: ApacheKafka) -> Iterator[Any]:
    with AdminClient({"bootstrap.servers": apache_kafka.bootstrap, "log_level": 0}) as client:
        yield client


@pytest.fixture
def where(edge: KafkaEdge) -> Partition:
    return Partition(edge.settings.images_topic, 0)


@contextmanager
def started(edge: KafkaEdge, **overrides: object) -> Iterator[KafkaBroker]:
    broker = edge.broker(edge.settings.model_copy(update=overrides))
    with closing(broker):
        broker.start()
        yield broker


def fill(edge: KafkaEdge, where: Partition, *values: str) -> None:
    for value in values:
        edge.produce(where.topic, key=None, value=value.encode(), headers=(), number=where.number)


def more(broker: KafkaBroker, found: list[Record]) -> list[Record]:
    """What was found, and what one more poll gives."""
    found += broker.poll(0.05)
    return found


def take(broker: KafkaBroker, count: int) -> list[Record]:
    records: list[Record] = []
    until(lambda: len(more(broker, records)) >= count, f"{count} records")
    return records


def answered(edge: KafkaEdge, broker: KafkaBroker, count: int) -> None:
    """Answer the next events."""
    records = take(broker, count)
    messages = tuple(Message(edge.settings.verdicts_topic, None, record.value or b"", ()) for record in records)
    last = records[-1]
    broker.publish([Progress(last.partition, last.epoch, last.next_offset, messages, last.leader_epoch)])


def counted(broker: KafkaBroker, name: str, **labels: str) -> float | None:
    return broker._metrics.registry.get_sample_value(f"genprint_{name}_total", labels)


def ready(broker: KafkaBroker) -> None:
    """Wait until every partition has its position, and that is committed."""

    def settled() -> bool:
        broker.poll(0.05)
        positions = [broker._positions.offset(partition) for partition in broker.owned()]
        return len(positions) == 2 * PARTITIONS and None not in positions and not broker._positions.unmarked

    until(settled, "all positions committed")


def remove_before(admin: Any, where: Partition, offset: int) -> None:
    [removed] = admin.delete_records([TopicPartition(*where, offset)]).values()
    removed.result()


def committed(edge: KafkaEdge, where: Partition) -> Any:
    """The group's offset with its metadata, which confluent-kafka 2.16 does not hand through whole."""
    with closing(KafkaConsumer(bootstrap_servers=edge.bootstrap, group_id=edge.settings.group_id)) as consumer:
        return consumer.committed(KafkaTopicPartition(*where), metadata=True)


def set_offset(admin: Any, edge: KafkaEdge, where: Partition, offset: int) -> None:
    wanted = ConsumerGroupTopicPartitions(edge.settings.group_id, [TopicPartition(*where, offset)])
    [changed] = admin.alter_consumer_group_offsets([wanted]).values()
    changed.result()


def make_again(admin: Any, edge: KafkaEdge, bootstrap: str) -> None:
    topic = edge.settings.images_topic
    [deleted] = admin.delete_topics([topic], operation_timeout=60).values()
    deleted.result()
    until(lambda: topic not in admin.list_topics(timeout=60).topics, "the topic gone")
    create_topics(bootstrap, {topic: PARTITIONS})


def test_the_first_start_begins_at_the_beginning_and_commits_where_it_is(
    edge: KafkaEdge, admin: Any, where: Partition
) -> None:
    fill(edge, where, "a", "b")
    remove_before(admin, where, 1)
    with started(edge) as broker:
        ready(broker)
        assert counted(broker, "positions", found="new") == 2 * PARTITIONS
        assert counted(broker, "records_lost_to_retention", topic=where.topic) == 0
        found = committed(edge, where)
        assert (found.offset, json.loads(found.metadata)["by"]) == (1, "genprint")
    with started(edge) as broker:
        ready(broker)
        assert counted(broker, "positions", found="committed") == 2 * PARTITIONS


def test_records_that_are_removed_before_they_are_read_are_counted(
    edge: KafkaEdge, admin: Any, where: Partition
) -> None:
    fill(edge, where, *"abcdefgh")
    with started(edge, max_poll_records=1) as broker:
        answered(edge, broker, 1)
    remove_before(admin, where, 4)  # while no worker runs
    with started(edge) as broker:
        assert [record.value for record in take(broker, 4)] == [b"e", b"f", b"g", b"h"]
        assert counted(broker, "records_lost_to_retention", topic=where.topic) == 3
        broker.pause([where])
        fill(edge, where, *"ijkl")
        until(lambda: not broker.poll(0.05) and (broker.lag() or {}).get(where) == Lag(4), "four behind")
        remove_before(admin, where, 10)  # while one runs
        broker.pause([])
        assert [record.value for record in take(broker, 2)] == [b"k", b"l"]
        assert counted(broker, "records_lost_to_retention", topic=where.topic) == 5


def test_a_gap_is_counted_once_although_nothing_follows_it(edge: KafkaEdge, admin: Any, where: Partition) -> None:
    fill(edge, where, *"abc")
    with started(edge) as broker:
        ready(broker)
    set_offset(admin, edge, where, 0)
    remove_before(admin, where, 3)
    for lost in (3, 0):
        with started(edge) as broker:
            ready(broker)
            until(lambda: not broker.poll(0.05) and broker._positions.offset(where) == 3, "behind the gap")
            ready(broker)
            assert counted(broker, "records_lost_to_retention", topic=where.topic) == lost


def test_offsets_that_have_vanished_and_offsets_of_others_are_told(
    edge: KafkaEdge, admin: Any, where: Partition
) -> None:
    fill(edge, where, *"abc")
    with started(edge) as broker:
        answered(edge, broker, 3)
        ready(broker)
    set_offset(admin, edge, where, 1)
    with started(edge) as broker:
        answered(edge, broker, 2)
        assert counted(broker, "positions", found="foreign") == 1
        assert counted(broker, "positions", found="committed") == 2 * PARTITIONS - 1
    set_offset(admin, edge, where, 3)
    for foreign in (1, 0):  # an offset that was seen is ours from then on, also where nothing comes
        with started(edge) as broker:
            ready(broker)
            assert counted(broker, "positions", found="foreign") == foreign
    [deleted] = admin.delete_consumer_groups([edge.settings.group_id]).values()
    deleted.result()
    with started(edge) as broker:
        take(broker, 3)
        assert counted(broker, "positions", found="vanished") == 1  # the other partitions are empty
        assert counted(broker, "positions", found="new") == 2 * PARTITIONS - 1


@pytest.mark.parametrize(("beyond_end", "comes"), [("stop", []), ("end", ["d"]), ("beginning", [*"abcd"])])
def test_an_offset_beyond_the_end_is_not_answered_with_everything_again(
    edge: KafkaEdge, admin: Any, where: Partition, beyond_end: str, comes: list[str]
) -> None:
    fill(edge, where, *"abc")
    set_offset(admin, edge, where, 1000)
    beside = Partition(where.topic, 1)
    found: list[Record] = []
    with started(edge, beyond_end=beyond_end) as broker:
        until(lambda: more(broker, found) is found and counted(broker, "log_changes", what="beyond_end") == 1, "it")
        fill(edge, beside, "beside")
        fill(edge, where, "d")
        until(lambda: len(more(broker, found)) > len(comes), "what comes, and others go on")
        for _ in range(10):
            broker.pause([])
            found += broker.poll(0.05)
        assert [(record.value or b"").decode() for record in found if record.partition == where] == comes
        assert [record.value for record in found if record.partition != where] == [b"beside"]
        assert (broker.lag() or {})[where].is_stopped == (beyond_end == "stop")


def test_a_topic_that_is_made_again_while_it_is_read_is_read_from_its_beginning(
    edge: KafkaEdge, admin: Any, where: Partition, apache_kafka: ApacheKafka
) -> None:
    fill(edge, where, *"abc")
    with started(edge) as broker:
        first = take(broker, 3)[0]
        in_flight = Progress(where, first.epoch, 3, ())
        make_again(admin, edge, apache_kafka.bootstrap)
        fill(edge, where, *"ABCDE")
        found: list[Record] = []
        until(lambda: len({record.value for record in more(broker, found)}) == 5, "all of the new one")
        again = [record for record in found if record.topic_id != first.topic_id]
        assert [record.value for record in again] == [b"A", b"B", b"C", b"D", b"E"]
        assert counted(broker, "log_changes", what="topic_made_again") == PARTITIONS
        assert counted(broker, "positions", found="vanished") == 0
        broker.publish([in_flight])  # of what is no more
        ready(broker)
        assert committed(edge, where).offset == 0


def test_a_topic_that_was_made_again_while_no_worker_ran_is_read_from_its_beginning(
    edge: KafkaEdge, admin: Any, where: Partition, apache_kafka: ApacheKafka
) -> None:
    fill(edge, where, *"abc")
    with started(edge) as broker:
        answered(edge, broker, 2)
        before = committed(edge, where)
    make_again(admin, edge, apache_kafka.bootstrap)
    fill(edge, where, *"ABCDE")
    # A broker deletes the offsets of a topic with it, sooner or later; here it has not.
    with closing(KafkaConsumer(bootstrap_servers=edge.bootstrap, group_id=edge.settings.group_id)) as consumer:
        consumer.commit({KafkaTopicPartition(*where): before})
    with started(edge) as broker:
        assert [record.value for record in take(broker, 5)] == [b"A", b"B", b"C", b"D", b"E"]
        assert counted(broker, "log_changes", what="topic_made_again") == 1


@pytest.mark.parametrize("is_known", [True, False], ids=["known place", "unknown place"])
def test_a_log_that_was_cut_is_read_again_from_there_or_not_at_all(
    edge: KafkaEdge, where: Partition, is_known: bool
) -> None:
    fill(edge, where, *"abcde")
    with started(edge) as broker:
        answered(edge, broker, 5)
        fill(edge, where, "f")
        in_flight = take(broker, 1)[0]
        # As kafka-python raises it when the leader's log ends before our position in the epoch of our last record.
        cut = OffsetAndMetadata(3, "", 0) if is_known else None
        broker._consumer._fetcher._cached_log_truncation = errors.LogTruncationError({KafkaTopicPartition(*where): cut})
        if is_known:
            assert [record.value for record in take(broker, 3)] == [b"d", b"e", b"f"]
            broker.publish([Progress(where, in_flight.epoch, 6, ())])  # of what is no more
            ready(broker)
            assert committed(edge, where).offset == 3
        else:
            what = {"what": "beyond_end"}
            until(lambda: not broker.poll(0.05) and counted(broker, "log_changes", **what) == 1, "it is noticed")
            fill(edge, where, "g")
            assert not any(broker.poll(0.05) for _ in range(10))
            assert (broker.lag() or {})[where].is_stopped
        assert counted(broker, "log_changes", what="log_cut" if is_known else "beyond_end") == 1


@pytest.fixture(scope="module")
def own_kafka(require_apache_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:  # noqa: ARG001
    """An Apache Kafka whose files may be harmed."""
    with ApacheKafka(tmp_path_factory.mktemp("own") / "kafka.log") as broker:
        yield broker


def lose_end(broker: ApacheKafka, where: Partition, offset: int) -> None:
    """Have the log end at this offset, and begin a new leader epoch: what an unclean election leaves."""
    broker.terminate()
    assert broker.data_dir is not None
    [log] = broker.data_dir.rglob(f"{where.topic}-{where.number}/{0:020}.log")
    data, at = log.read_bytes(), 0
    while struct.unpack_from(">q", data, at)[0] < offset:  # each batch: its first offset, its length, and so many bytes
        at += 12 + struct.unpack_from(">i", data, at + 8)[0]
    log.write_bytes(data[:at])
    broker.start()


@pytest.mark.parametrize("is_restarted", [True, False], ids=["restarted", "running"])
def test_a_log_that_was_cut_and_has_grown_past_the_offset_is_read_again_from_there(
    own_kafka: ApacheKafka, is_restarted: bool
) -> None:
    """No offset is out of range here: only the leader epoch beside it tells that other records stand before it."""
    with ExitStack() as stack:
        edge = stack.enter_context(closing(KafkaEdge(own_kafka.bootstrap, atomic=True, rebalances=True)))
        edge.settings = edge.settings.model_copy(update={"session_timeout_s": 60})  # it outlives the broker's absence
        where = Partition(edge.settings.images_topic, 0)
        fill(edge, where, *"abcde")
        broker = stack.enter_context(started(edge))
        answered(edge, broker, 5)
        ready(broker)
        if is_restarted:
            broker.close()
        lose_end(own_kafka, where, 3)
        fill(edge, where, *"DEFGH")
        if is_restarted:
            broker = stack.enter_context(started(edge))
        assert [record.value for record in take(broker, 5)] == [b"D", b"E", b"F", b"G", b"H"]
        assert counted(broker, "log_changes", what="log_cut") == 1


def test_offsets_that_would_be_forgotten_before_records_are_warned_of(apache_kafka: ApacheKafka) -> None:
    prefix = uuid.uuid4().hex[:8]
    kept, short = f"{prefix}.kept", f"{prefix}.short"
    create_topics(apache_kafka.bootstrap, {kept: 1}, config={"retention.ms": "-1"})
    create_topics(apache_kafka.bootstrap, {short: 1}, config={"retention.ms": "3600000"})
    settings = KafkaSettings(bootstrap_servers=apache_kafka.bootstrap, images_topic=kept, retry_topic=short)
    with capture_logs() as logged, closing(KafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap)) as admin:
        check_settings(admin, (kept, short), settings)
    assert [(line["topic"], line["records_kept_s"], line["offsets_kept_s"]) for line in logged] == [
        (kept, "for ever", 7 * 86400)
    ]


def test_an_open_transaction_of_another_producer_shows(
    edge: KafkaEdge, apache_kafka: ApacheKafka, where: Partition
) -> None:
    options = {"bootstrap.servers": apache_kafka.bootstrap, "transactional.id": edge.settings.group_id + "-other"}
    with started(edge) as broker, closing(Producer({**options, "log_level": 0})) as producer:
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(where.topic, b"held", partition=where.number)
        producer.flush(30)
        fill(edge, where, "good", "too")

        def withheld() -> int | None:
            assert broker.poll(0.05) == []
            found = (broker.lag() or {}).get(where)
            return found.withheld if found else None

        until(lambda: withheld() == 3, "three records that nobody can read")
        producer.abort_transaction(30)
        assert [record.value for record in take(broker, 2)] == [b"good", b"too"]
        until(lambda: withheld() == 0, "none withheld")

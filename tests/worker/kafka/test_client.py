"""What only a real broker can show about ``worker.kafka.client``."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # documented there
from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.topics import create_topics
from tests.harm import harm_batch
from tests.worker.messages.edges import KafkaEdge, until
from worker.errors import BrokerUnreachable, EventTooLarge, MessageRefused, TopicUnsuitable, UndecodableRecord
from worker.kafka.client import _LONG_FETCH_MS, _SHORT_FETCH_MS, KafkaBroker
from worker.messages.records import Lag, Message, Partition, Progress, Record

pytestmark = pytest.mark.integration


@pytest.fixture
def edge(apache_kafka: ApacheKafka) -> Iterator[KafkaEdge]:
    with closing(KafkaEdge(apache_kafka.bootstrap, atomic=True, rebalances=True)) as edge:
        yield edge


def alter_topic(bootstrap: str, topic: str, configs: dict[str, str]) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        results = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    assert results["topic"][topic] == "OK"


def test_a_topic_that_takes_less_than_the_client_lowers_the_limit(apache_kafka: ApacheKafka, edge: KafkaEdge) -> None:
    small = f"{edge.settings.dead_topic}.small"
    create_topics(apache_kafka.bootstrap, {small: 1}, config={"max.message.bytes": "50000"})
    broker = edge.broker(edge.settings.model_copy(update={"dead_topic": small}))
    broker.start()
    try:
        assert broker.max_message_bytes == 50_000
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        where = Partition(edge.settings.images_topic, 0)
        sizes = (60_000, 40_000, 40_000, 40_000)
        letters = tuple(Message(small, None, bytes(size), ()) for size in sizes)
        with pytest.raises(MessageRefused):
            broker.publish([Progress(where, broker.owned()[where], 0, letters)])
        broker.publish([Progress(where, broker.owned()[where], 0, letters[1:])])
    finally:
        broker.close()


@pytest.mark.parametrize(
    ("which", "config", "expected"),
    [
        (
            "retry_topic",
            {"max.message.bytes": "50000"},
            r"its max\.message\.bytes is 50000, that of kafka\.images_topic=",
        ),
        ("verdicts_topic", {"cleanup.policy": "compact"}, r"its cleanup\.policy is compact"),
    ],
)
def test_topics_that_would_refuse_answers_stop_the_start(
    apache_kafka: ApacheKafka, edge: KafkaEdge, which: str, config: dict[str, str], expected: str
) -> None:
    name = f"{edge.settings.group_id}.unsuitable"
    create_topics(apache_kafka.bootstrap, {name: 1}, config=config)
    with (
        closing(edge.broker(edge.settings.model_copy(update={which: name}))) as broker,
        pytest.raises(TopicUnsuitable, match=rf"kafka\.{which}={name}: {expected}"),
    ):
        broker.start()


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize(
    ("rule", "breaks", "keeps"),
    [
        ({"cleanup.policy": "compact"}, (None, b"no key"), (b"key", b"with a key")),
        ({"max.message.bytes": "20000"}, (None, bytes(30_000)), (None, b"small")),
    ],
)
def test_a_record_that_the_broker_refuses_is_named_and_the_others_go_through(
    edge: KafkaEdge,
    apache_kafka: ApacheKafka,
    delivery: str,
    rule: dict[str, str],
    breaks: tuple[bytes | None, bytes],
    keeps: tuple[bytes | None, bytes],
) -> None:
    """A rule of a topic that changes after the start, and a publication with many records in one batch."""
    settings = edge.settings.model_copy(update={"delivery": delivery})
    topic, where = settings.verdicts_topic, Partition(settings.images_topic, 0)
    with closing(edge.broker(settings)) as broker:
        broker.start()
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        alter_topic(apache_kafka.bootstrap, topic, rule)
        until(lambda: not is_taken(apache_kafka.bootstrap, topic, *breaks), "the new rule")
        before = len(edge.read(topic, 0))
        refused, kept = Message(topic, *breaks, ()), Message(topic, *keeps, ())
        epoch = broker.owned()[where]
        for messages in ((kept,) * 10 + (refused,) + (kept,) * 10, (refused, kept), (refused,)):
            with pytest.raises(MessageRefused) as caught:
                broker.publish([Progress(where, epoch, 0, messages)])
            assert any(candidate is refused for candidate in caught.value.candidates)
            broker.publish([Progress(where, epoch, 0, (kept,))])
        assert caught.value.candidates == [refused]
        after = [stored.value for stored in edge.read(topic, before + 3)][before:]
        assert {*after} == {kept.value}
        assert delivery == "at_least_once" or len(after) == 3
        assert broker.max_message_bytes == int(rule.get("max.message.bytes", settings.max_message_bytes))


def is_taken(bootstrap: str, topic: str, key: bytes | None, value: bytes) -> bool:
    """Whether the broker takes a record."""
    with closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        try:
            producer.send(topic, value, key).get(60)
        except (errors.InvalidRecordError, errors.MessageSizeTooLargeError):
            return False
    return True


def test_records_that_nobody_can_read_come_with_the_good_ones_around_them(
    apache_kafka: ApacheKafka, edge: KafkaEdge
) -> None:
    topic = edge.settings.images_topic
    for name in ("good", "odd-name", "harmed", "fine"):
        edge.produce(topic, key=None, value=name.encode(), headers=((f"header-{name}", b"x"),), number=0)
    assert apache_kafka.data_dir is not None
    (segment,) = apache_kafka.data_dir.glob(f"**/{topic}-0/*.log")
    harm_batch(segment, b"header-odd-name", b"header-\xff\xfe\xff-name", checksum=True)
    harm_batch(segment, b"header-harmed", b"HEADER-harmed", checksum=False)
    broker = edge.broker()
    broker.start()
    found: list[Record] = []

    def all_four() -> bool:
        found.extend(broker.poll(0.05))
        return len(found) >= 4

    try:
        until(all_four, "all four")
    finally:
        broker.close()
    assert [record.offset for record in found] == [0, 1, 2, 3]
    assert [record.value for record in found] == [b"good", b"odd-name", None, b"fine"]
    assert found[1].headers == ((r"header-\xff\xfe\xff-name", b"x"),)
    assert [str(record.unread) for record in found] == ["None", "None", "the checksum of its batch is wrong", "None"]


def test_a_batch_of_more_records_than_it_paid_for_is_passed_as_one_record(
    apache_kafka: ApacheKafka, edge: KafkaEdge
) -> None:
    topic, count = edge.settings.images_topic, 5_000
    options = {"bootstrap_servers": apache_kafka.bootstrap, "compression_type": "zstd", "batch_size": 2**20}
    with closing(KafkaProducer(**options, linger_ms=10_000)) as producer:
        for _ in range(count):
            producer.send(topic, value=b"", partition=0)
        producer.flush()
        producer.send(topic, value=b"x", headers=[("h", b"")] * 100_000, partition=0)
        producer.flush()
    broker = edge.broker()
    broker.start()
    found: list[Record] = []

    def all_offsets() -> bool:
        found.extend(broker.poll(0.05))
        return sum(record.count for record in found) == count + 1

    try:
        until(all_offsets, "an answerable record for each offset")
        where = Partition(topic, 0)
        assert [record.offset for record in found] == [0, *(record.next_offset for record in found[:-1])]
        assert isinstance(found[0].unread, UndecodableRecord)
        assert isinstance(found[-1].unread, EventTooLarge)
        assert len(found) < 10  # the client may have made more than one batch
        until(lambda: (broker.lag() or {}).get(where) == Lag(0), "the position behind all of them")
    finally:
        broker.close()


def test_a_member_that_is_back_under_its_name_has_the_group_rebalance(edge: KafkaEdge) -> None:
    """The broker would give it the assignment of its predecessor, who may have been killed in the middle of another."""
    patient = edge.settings.model_copy(update={"session_timeout_s": 300.0})  # nobody is expelled here
    leader, killed, successor = (
        edge.broker(patient.model_copy(update={"instance_id": name})) for name in ("a", "b", "b")
    )

    def generations(*brokers: KafkaBroker) -> set[int]:
        return {broker._consumer.group_metadata().generation_id for broker in brokers}

    def settled(*brokers: KafkaBroker) -> bool:
        # By turns: each gets the group's answer to its join while the other one polls.
        assert not any(broker.poll(0.05) for broker in brokers)
        joining = any(broker._consumer._coordinator.need_rejoin() for broker in brokers)
        return not joining and len(generations(*brokers)) == 1 and all(len(broker.owned()) == 2 for broker in brokers)

    with closing(leader), closing(killed), closing(successor):
        leader.start()
        until(lambda: not leader.poll(0.05) and len(leader.owned()) == 4, "all partitions owned")
        killed.start()
        until(lambda: settled(leader, killed), "partitions shared")
        until(lambda: all(settled(leader, killed) for _ in range(20)), "no rebalance")
        before = generations(leader)
        killed.close()  # with a name of its own it does not leave the group
        successor.start()
        until(lambda: settled(leader, successor) and max(generations(successor)) > max(before), "another generation")


def test_the_backlog_of_one_partition_does_not_hold_up_another(edge: KafkaEdge) -> None:
    topic = edge.settings.images_topic
    deep, other = Partition(topic, 0), Partition(topic, 1)
    broker = edge.broker(edge.settings.model_copy(update={"max_poll_records": 10}))
    with closing(broker):
        broker.start()
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        for where, count in ((deep, 3_000), (other, 30)):
            edge.produce_many(topic, [b"%d" % number for number in range(count)], number=where.number)
        found: list[Record] = []

        def complete() -> bool:
            found.extend(broker.poll(0.05))
            return len(found) == 3_030

        until(complete, "all records")
    for where, count in ((deep, 3_000), (other, 30)):
        assert [record.offset for record in found if record.partition == where] == list(range(count))
    places = [place for place, record in enumerate(found) if record.partition == other]
    assert places[-1] < 200  # in turn they are through after 60


def test_a_session_that_the_broker_does_not_allow_names_its_setting(edge: KafkaEdge) -> None:
    broker = edge.broker(edge.settings.model_copy(update={"session_timeout_s": 0.5}))
    with closing(broker):
        broker.start()
        with pytest.raises(BrokerUnreachable, match=r"kafka\.session_timeout_s=0\.5: the broker allows"):
            until(lambda: bool(broker.poll(0.05)), "a refusal")


@pytest.mark.parametrize("why", ["members", "metadata"])
def test_an_answer_of_the_group_that_comes_between_two_polls_is_read(edge: KafkaEdge, why: str) -> None:
    broker = edge.broker()
    with closing(broker):
        broker.start()
        coordinator = broker._consumer._coordinator
        until(lambda: not broker.poll(0.05) and coordinator.stable() and len(broker.owned()) == 4, "a stable group")
        before = coordinator._generation.generation_id
        if why == "members":
            coordinator.request_rejoin()
        else:  # the leader rejoins as it would for a partition that was added, and has taken it up with the answer
            coordinator._assignment_snapshot = {}
        broker.poll(0.0)
        until(lambda: coordinator._join_task.is_done, "the group's answer")
        until(lambda: not broker.poll(0.05) and coordinator.stable(), "a stable group again")
        assert coordinator._generation.generation_id == before + 1
        assert coordinator._heartbeat_enabled


def test_records_of_a_paused_partition_come_when_it_goes_on(edge: KafkaEdge) -> None:
    topic = edge.settings.images_topic
    paused, other = Partition(topic, 0), Partition(topic, 1)
    for number in range(6):
        edge.produce(topic, key=None, value=b"%d" % number, headers=(), number=number % 2)
    broker = edge.broker(edge.settings.model_copy(update={"max_poll_records": 1}))
    broker.start()
    found: list[Record] = []

    def come(partition: Partition, count: int) -> bool:
        found.extend(broker.poll(0.05))
        return sum(record.partition == partition for record in found) >= count

    try:
        until(lambda: come(paused, 1), "the first of it")  # and the client holds the others
        broker.pause([paused])
        until(lambda: come(other, 3), "all of the other one")
        until(lambda: not broker.poll(0.05), "nothing more")
        broker.pause([])
        until(lambda: come(paused, 3), "the rest of it")
    finally:
        broker.close()
    assert [record.offset for record in found if record.partition == paused] == [0, 1, 2]


def test_partitions_that_are_added_are_taken_up(
    apache_kafka: ApacheKafka, edge: KafkaEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.kafka.client._METADATA_AGE_MS", 500)
    added = Partition(edge.settings.images_topic, 2)
    broker = edge.broker()
    broker.start()
    try:
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        with AdminClient({"bootstrap.servers": apache_kafka.bootstrap, "log_level": 0}) as admin:
            admin.create_partitions([NewPartitions(added.topic, 3)])[added.topic].result()
        until(lambda: not broker.poll(0.05) and added in broker.owned(), "the new partition")
        edge.produce(added.topic, key=None, value=b"new", headers=(), number=added.number)
        until(lambda: [record.partition for record in broker.poll(0.05)] == [added], "what is in it")
    finally:
        broker.close()


def test_a_connection_that_is_gone_holds_up_no_transaction(edge: KafkaEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = edge.broker()
    broker.start()
    try:
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        client, where = broker._publisher._producer._sender._client, Partition(edge.settings.images_topic, 0)
        is_ready, refusals = client.is_ready, iter([False] * 2)  # asked before it connects, and after
        monkeypatch.setattr(client, "is_ready", lambda node: next(refusals, True) and is_ready(node))
        message = Message(edge.settings.verdicts_topic, None, b"verdict", ())
        broker.publish([Progress(where, broker.owned()[where], 0, (message,))])  # it was aborted, when records expired
        assert next(refusals, None) is None
    finally:
        broker.close()


def test_no_fetch_is_sent_for_what_remains_while_a_response_waits(edge: KafkaEdge) -> None:
    broker = edge.broker()
    broker.start()
    found: list[Record] = []

    def come(count: int) -> bool:
        found.extend(broker.poll(0.05))
        return len(found) == count

    try:
        fetcher = broker._consumer._fetcher
        edge.produce(edge.settings.images_topic, key=None, value=b"first", headers=(), number=0)
        until(lambda: come(1) and fetcher.in_flight_fetches(), "the first, and a fetch for all partitions")
        edge.produce(edge.settings.images_topic, key=None, value=b"second", headers=(), number=0)
        until(lambda: bool(fetcher._completed_fetches), "a response that nobody has looked at")
        assert fetcher._fetchable_partitions()
        assert fetcher.send_fetches() == []
        until(lambda: come(2), "the second")
    finally:
        broker.close()


def test_fetches_from_several_brokers_share_their_bytes(edge: KafkaEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = edge.broker()
    with closing(broker):
        broker.start()
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        config, most = broker._consumer._fetcher.config, edge.settings.fetch_max_bytes
        assert config["fetch_max_bytes"] == most
        leader = broker._consumer._cluster.leader_for_partition
        elsewhere = {(edge.settings.images_topic, 1): -1, (edge.settings.retry_topic, 0): None}  # not to be asked
        monkeypatch.setattr(
            broker._consumer._cluster, "leader_for_partition", lambda tp: elsewhere.get(tuple(tp), leader(tp))
        )
        until(lambda: not broker.poll(0.05) and config["fetch_max_bytes"] == most // 3, "a third for each")


def test_a_fetch_that_leaves_a_partition_out_waits_for_less(edge: KafkaEdge) -> None:
    broker = edge.broker()
    broker.start()
    try:
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        config = broker._consumer._fetcher.config

        def waits(wanted_ms: int) -> bool:
            broker.poll(0.05)
            return bool(config["fetch_max_wait_ms"] == wanted_ms)

        until(lambda: waits(_LONG_FETCH_MS), "a patient fetch for all")
        broker.pause([Partition(edge.settings.images_topic, 0)])
        until(lambda: waits(_SHORT_FETCH_MS), "an impatient one without the paused partition")
        broker.pause([])
        until(lambda: waits(_LONG_FETCH_MS), "a patient one again")
    finally:
        broker.close()

"""One conformance suite for the broker edge: in memory, on the embedded broker, on Apache Kafka."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.worker.messages.edges import Edge, KafkaEdge, MemoryEdge, until
from worker.errors import MessageRefused, TopicMissing
from worker.messages.records import Broker, Lag, Message, Partition, Progress, Record

Start = Callable[..., Broker]


@pytest.fixture(
    params=[
        "memory",
        pytest.param("embedded", marks=pytest.mark.integration),
        pytest.param("apache", marks=pytest.mark.integration),
    ]
)
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with closing(_edge(request)) as edge:
        yield edge


def _edge(request: pytest.FixtureRequest) -> Edge:
    match request.param:
        case "memory":
            return MemoryEdge()
        case "embedded":
            # It shows aborted transactions to read_committed readers, so it is served at least once, and it does not
            # bring two cooperative members to an assignment within the deadline.
            return KafkaEdge(request.getfixturevalue("embedded_broker").bootstrap, atomic=False, rebalances=False)
        case _:
            return KafkaEdge(request.getfixturevalue("apache_kafka").bootstrap, atomic=True, rebalances=True)


@pytest.fixture
def start(edge: Edge) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(**overrides: object) -> Broker:
            broker = edge.broker(edge.settings.model_copy(update=overrides))
            stack.enter_context(closing(broker))
            broker.start()
            return broker

        yield started


def fill(edge: Edge, count: int, topic: str | None = None) -> None:
    for i in range(count):
        value = f"{i}".encode()
        headers = (("n", value),)
        edge.produce(topic or edge.settings.images_topic, key=b"k", value=value, headers=headers, number=i % 2)


def take(broker: Broker, count: int) -> list[Record]:
    records: list[Record] = []

    def enough() -> bool:
        records.extend(broker.poll(0.1))
        return len(records) >= count

    until(enough, f"{count} records, got {len(records)}")
    return records


def answer(edge: Edge, records: list[Record]) -> list[Progress]:
    by_partition: dict[Partition, list[Record]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    return [
        Progress(
            partition,
            own[-1].epoch,
            own[-1].offset + 1,
            tuple(Message(edge.settings.verdicts_topic, r.key, r.coordinates.encode(), (("h", b"v"),)) for r in own),
        )
        for partition, own in by_partition.items()
    ]


def test_missing_topic_stops_the_start_and_is_named(start: Start) -> None:
    with pytest.raises(TopicMissing, match="nowhere"):
        start(dead_topic="nowhere")


def test_joins_and_owns_both_input_topics(edge: Edge, start: Start) -> None:
    broker = start()
    until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
    assert broker.joined()
    assert {p.topic for p in broker.owned()} == {edge.settings.images_topic, edge.settings.retry_topic}


def test_records_come_whole_and_in_order(edge: Edge, start: Start) -> None:
    topic = edge.settings.images_topic
    edge.produce(topic, key=None, value=None, headers=(("null", None), ("empty", b"")), number=0)
    edge.produce(topic, key=b"\xff", value=b"\x00\xff", headers=(("a", b"1"), ("a", b"2")), number=0)
    broker = start()
    first, second = take(broker, 2)
    assert (first.key, first.value, first.headers) == (None, None, (("null", None), ("empty", b"")))
    assert (second.key, second.value, second.headers) == (b"\xff", b"\x00\xff", (("a", b"1"), ("a", b"2")))
    assert (first.offset, second.offset) == (0, 1)
    assert first.coordinates == f"{topic}/0/0"


def test_published_is_visible_and_not_read_again(edge: Edge, start: Start) -> None:
    fill(edge, 10)
    broker = start()
    records = take(broker, 10)
    broker.publish(answer(edge, records[:6]))
    broker.close()
    left = {record.coordinates for record in records[6:]}
    assert {record.coordinates for record in take(start(), len(left))} == left
    seen = edge.read(edge.settings.verdicts_topic, 6)
    assert sorted(stored.value or b"" for stored in seen) == sorted(
        record.coordinates.encode() for record in records[:6]
    )
    assert all(stored.headers == (("h", b"v"),) and stored.key == b"k" for stored in seen)


def test_a_stale_epoch_is_left_out(edge: Edge, start: Start) -> None:
    fill(edge, 2)
    broker = start()
    fresh, stale = answer(edge, take(broker, 2))
    stale = Progress(stale.partition, stale.epoch - 1000, stale.next_offset, stale.messages)
    broker.publish([fresh, stale])
    broker.publish([stale])
    assert [stored.value for stored in edge.read(edge.settings.verdicts_topic, 1)] == [fresh.messages[0].value]
    broker.close()
    assert [record.partition for record in take(start(), 1)] == [stale.partition]


def test_paused_partitions_wait_and_go_on(edge: Edge, start: Start) -> None:
    broker = start()
    until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
    waiting, flowing = Partition(edge.settings.images_topic, 0), Partition(edge.settings.images_topic, 1)
    broker.pause([waiting])
    fill(edge, 8)
    assert {record.partition for record in take(broker, 4)} == {flowing}
    assert broker.poll(0.2) == []
    broker.pause([flowing])
    assert [record.offset for record in take(broker, 4)] == [0, 1, 2, 3]


def test_a_message_too_large_is_named_and_nothing_of_it_remains(edge: Edge, start: Start) -> None:
    fill(edge, 2)
    broker = start(max_message_bytes=100_000)
    progress = answer(edge, take(broker, 2))
    last = progress[-1]
    large = Message(edge.settings.verdicts_topic, None, b"x" * 300_000, ())
    spoilt = [*progress[:-1], Progress(last.partition, last.epoch, last.next_offset, (large,))]
    with pytest.raises(MessageRefused) as caught:
        broker.publish(spoilt)
    assert caught.value.candidates == [large]
    if edge.atomic:
        assert edge.read(edge.settings.verdicts_topic, 0) == []
    broker.publish(progress)
    assert len({stored.value for stored in edge.read(edge.settings.verdicts_topic, 2)}) == 2


def test_what_is_read_again_comes_under_another_epoch(edge: Edge, start: Start) -> None:
    fill(edge, 6)
    broker = start()
    first = take(broker, 6)
    where = first[0].partition
    stale = answer(edge, [record for record in first if record.partition == where])
    offset = stale[-1].next_offset - 1
    assert broker.read_again(where, first[0].epoch - 1, offset) is None
    assert broker.read_again(where, first[0].epoch, offset) == broker.owned()[where] != first[0].epoch
    broker.publish(stale)
    assert edge.read(edge.settings.verdicts_topic, 0) == []
    again = take(broker, 1)
    assert [(record.partition, record.next_offset) for record in again] == [(where, stale[-1].next_offset)]
    broker.publish(answer(edge, again))
    assert len(edge.read(edge.settings.verdicts_topic, 1)) == 1


def test_lag_counts_what_is_not_read_and_ends_at_zero(edge: Edge, start: Start) -> None:
    fill(edge, 6)
    broker = start()
    records = take(broker, 6)
    broker.publish(answer(edge, records))

    def lag() -> int | None:
        behind = broker.lag() if not broker.poll(0.05) else None
        return sum(found.behind for found in behind.values()) if behind else None

    until(lambda: lag() == 0, "no lag")
    broker.pause(list(broker.owned()))
    fill(edge, 4)
    until(lambda: lag() == 4, "lag of paused partitions")


def test_lag_is_told_while_nothing_comes(start: Start) -> None:
    # Apache Kafka answers the requests of a connection in order: this one waits behind the fetch of the poll before.
    broker = start()
    until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
    for _ in range(5):
        assert broker.poll(0.2) == []
        assert broker.lag() == dict.fromkeys(broker.owned(), Lag(0))


def test_two_members_share_and_the_second_takes_over(edge: Edge, start: Start) -> None:
    if not edge.rebalances:
        pytest.skip("this broker does not rebalance in time")
    first, second = start(), start()

    def shared() -> bool:
        first.poll(0.05)
        second.poll(0.05)
        return bool(first.owned()) and bool(second.owned()) and len({**first.owned(), **second.owned()}) == 4

    until(shared, "partitions shared")
    assert not first.owned().keys() & second.owned().keys()
    first.close()
    until(lambda: not second.poll(0.05) and len(second.owned()) == 4, "second owns all")


def test_closing_twice_or_before_the_start_is_no_error(edge: Edge, start: Start) -> None:
    edge.broker().close()
    broker = start()
    broker.close()
    broker.close()

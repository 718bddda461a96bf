"""A cluster of three brokers: killed, frozen, slow, restarted, and partitions that move, each under load."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from confluent_kafka.admin import AdminClient, TopicMetadata  # type: ignore[attr-defined]  # documented there
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from deploy.local.apache_kafka import configure
from deploy.local.kafka_cluster import KafkaCluster, running_cluster
from tests.chaos.audit import Audit, audit
from tests.chaos.feed import Feed
from tests.chaos.report import Result
from tests.chaos.rig import SESSION_S, TIMEOUTS, TRANSACTION_S, Case, Rig
from tests.integration.worker_process import PARTITIONS, TOPICS

_LOAD_PER_S = 200.0
_BROKER_SESSION_S = 6.0
_SILENCE_S = _BROKER_SESSION_S + SESSION_S + TRANSACTION_S + 15
_PROMISE = (
    "none lost, none twice, silent for at most a broker's session + a worker's + transaction time-out + 15 s = "
    f"{_SILENCE_S:.0f} s"
)
_FROZEN_S, _SLOW_S = 20.0, 15.0
_HALTED_S, _RUNNING_S = 0.45, 0.05
_RECOVERY_S = 150.0
_PREFERRED = 0
_EVENTS = 100


def cluster(rig: Rig) -> Iterator[Result]:
    """One fault after the other, on the same three brokers."""
    faults: dict[str, Callable[[Case, KafkaCluster], None]] = {
        "each killed, the coordinator first": _kill_each,
        f"one frozen for {_FROZEN_S:.0f} s": _freeze,
        "one slow": _slow_down,
        "restarted in turn": _restart_each,
        "leaders and copies moved": _move,
    }
    with running_cluster(rig.out / "logs", "cluster") as brokers:
        for name, disturb in faults.items():
            with rig.case(f"cluster: {name}", _PROMISE, TIMEOUTS, kafka=brokers) as case:
                case.fleet.grow(2)
                case.until(case.fleet.ready, "two workers ready")
                case.load(_LOAD_PER_S)
                case.until_more("before the fault")
                disturb(case, brokers)
                _await_complete(case, brokers)
                case.until_more("after the fault", _RECOVERY_S)
                yield case.finish(_RECOVERY_S, silence_s=_SILENCE_S)
        yield _unclean(rig, brokers)


def _kill_each(case: Case, brokers: KafkaCluster) -> None:
    first = _coordinator(case)
    for number in sorted(brokers.nodes, key=lambda number: number != first):
        case.let_pass(case.random.uniform(0, 2))
        brokers.nodes[number].kill()
        case.let_pass(case.random.uniform(0, 15))
        brokers.nodes[number].restart()
        _await_complete(case, brokers)
        case.until_more(f"after broker {number} was killed", _RECOVERY_S)


def _freeze(case: Case, brokers: KafkaCluster) -> None:
    node = brokers.nodes[_metadata(case)["images"].partitions[0].leader]
    node.pause()
    case.let_pass(_FROZEN_S)
    node.resume()


def _slow_down(case: Case, brokers: KafkaCluster) -> None:
    node = brokers.nodes[_coordinator(case)]
    end = time.monotonic() + _SLOW_S
    while time.monotonic() < end:
        node.pause()
        case.let_pass(_HALTED_S)
        node.resume()
        case.let_pass(_RUNNING_S)


def _restart_each(case: Case, brokers: KafkaCluster) -> None:
    for node in brokers.nodes.values():
        node.restart()
        _await_complete(case, brokers)
        case.until_more("after a restart", _RECOVERY_S)


def _move(case: Case, brokers: KafkaCluster) -> None:
    numbers, topics = list(brokers.nodes), [case.stream.topic(name) for name in TOPICS]
    for turn in range(1, 4):
        for copies in (2, 3):  # one copy is given up, and made anew
            _assign(
                case, topics, range(PARTITIONS), [numbers[(turn + place) % len(numbers)] for place in range(copies)]
            )
            case.until_more("after copies were moved", _RECOVERY_S)


def _assign(case: Case, topics: Iterable[str], numbers: Iterable[int], replicas: list[int]) -> None:
    """Have partitions of topics on these brokers, led by the first of them."""
    partitions = {topic: list(numbers) for topic in topics}
    wanted = {TopicPartition(topic, number): replicas for topic, own in partitions.items() for number in own}
    with closing(KafkaAdminClient(bootstrap_servers=case.kafka.bootstrap.split(","))) as admin:
        refused = {tp: error for tp, error in admin.alter_partition_reassignments(wanted).items() if error is not None}
        case.require(not refused, f"not reassigned: {refused}")
        case.until(lambda: not admin.list_partition_reassignments(list(wanted)), "copies moved", _RECOVERY_S)

        def elected() -> bool:
            try:
                admin.elect_leaders(_PREFERRED, partitions)
            except KafkaError:  # a copy that is not complete yet
                return False
            return True

        case.until(elected, "leaders elected", _RECOVERY_S)


def _unclean(rig: Rig, brokers: KafkaCluster) -> Result:
    """The only complete copy of the events is gone, and one that lacks the last of them takes over."""
    promise = "what was lost was answered before; what takes its place is answered too, and the worker says log_cut"
    with rig.case("cluster: an unclean election", promise, TIMEOUTS, kafka=brokers) as case:
        topic = case.stream.topic("images")
        rules = "unclean.leader.election.enable=true,min.insync.replicas=1"
        configure(
            brokers.bootstrap, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", rules
        )
        leader, follower = 1, 2
        _assign(case, [topic], [0], [leader, follower])
        case.until(lambda: _metadata(case)["images"].partitions[0].leader == leader, "its leader")
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the worker ready")
        _answer(case, 2 * _EVENTS)
        brokers.nodes[follower].kill()
        case.until(lambda: _metadata(case)["images"].partitions[0].isrs == [leader], "the follower given up")
        _answer(case, _EVENTS)
        brokers.nodes[leader].kill()
        brokers.nodes[follower].restart()
        case.until(lambda: _metadata(case)["images"].partitions[0].leader == follower, "the election", _RECOVERY_S)
        brokers.nodes[leader].restart()
        _await_complete(case, brokers)
        before = len(case.answers.found)
        with closing(Feed(brokers.bootstrap, topic)) as feed:  # the other one's sequence numbers are lost too
            feed.send(case.inline(2 * _EVENTS), partition=0)
            case.until(lambda: feed.done, "sent")

        def found() -> Audit:
            return audit(feed.sent, case.answers.found[before:])

        case.until(lambda: found().lost == 0, "what took the place of the lost is answered", _RECOVERY_S)
        first = min(int(origin.rpartition("/")[2]) for origin in feed.sent)
        case.figures["offsets that came again"] = 3 * _EVENTS - first
        case.require(first == 2 * _EVENTS, f"nothing was lost: the new events begin at {first}")
        cuts = case.fleet.metric(0, 'genprint_log_changes_total{what="log_cut"}')
        case.require(cuts >= 1, "the worker has not seen that the log was cut")
        case.fleet.stop()
        return case.result_of(found())


def _await_complete(case: Case, brokers: KafkaCluster) -> None:
    case.until(brokers.is_complete, "the cluster complete", _RECOVERY_S)


def _answer(case: Case, count: int) -> None:
    """Send events to the first partition, and wait for their answers."""
    case.feed.send(case.inline(count), partition=0)
    case.until(lambda: case.feed.done, "sent")
    case.until(lambda: case.answered >= len(case.feed.sent), "answered", _RECOVERY_S)


def _coordinator(case: Case) -> int:
    """The number of the broker that coordinates the workers' group."""
    group = case.stream.prefix
    with AdminClient({"bootstrap.servers": case.kafka.bootstrap, "log_level": 0}) as admin:
        return int(admin.describe_consumer_groups([group])[group].result().coordinator.id)


def _metadata(case: Case) -> dict[str, TopicMetadata]:
    """What the cluster says of the case's topics."""
    with AdminClient({"bootstrap.servers": case.kafka.bootstrap, "log_level": 0}) as admin:
        topics = admin.list_topics(timeout=20).topics
    return {name: topics[case.stream.topic(name)] for name in TOPICS}

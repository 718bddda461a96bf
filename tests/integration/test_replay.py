"""``python -m worker replay`` on Apache Kafka, killed and started again."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka.partitioner.default import murmur2

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.topics import create_topics
from tests.integration.worker_process import PARTITIONS, ROOT, Stream, WorkerProcess
from tests.worker.messages.edges import until
from tests.worker.small_bundle import encoded_image, small_bundle

pytestmark = pytest.mark.integration

EVENTS, MORE = 800, 80
PNG = {"content-type": b"image/png"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b").path


@pytest.fixture
def stream(apache_kafka: ApacheKafka) -> Stream:
    stream = Stream(apache_kafka.bootstrap)
    for number in range(EVENTS):
        broken = number % 50 == 49
        stream.produce(
            b"no image" if broken else encoded_image(40 + number % 100, seed=number), PNG, key=b"%d" % number
        )
    stream.flush()
    return stream


def replay(stream: Stream, bundle: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = stream.environment(bundle, LOG_LEVEL="warning", KAFKA__TRANSACTION_TIMEOUT_S="6") | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, "-m", "worker", "replay", "--run-id", "audit", *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, err.strip().rpartition("\n")[2]  # before it the client may have logged


def ends(stream: Stream, kind: str = "images", partitions: int = PARTITIONS) -> dict[int, int]:
    reader = Consumer({"bootstrap.servers": stream.bootstrap, "group.id": "x", "log_level": 0})
    try:
        places = [TopicPartition(stream.topic(kind), number) for number in range(partitions)]
        return {tp.partition: reader.get_watermark_offsets(tp, timeout=60)[1] for tp in places}
    finally:
        reader.close()


def origins(stream: Stream, count: int) -> "Counter[str]":
    """Origins of verdicts and dead letters, each of the right run."""
    answers = stream.answers(count)
    found: Counter[str] = Counter()
    for message in answers["verdicts"]:
        verdict = json.loads(message.value())
        assert verdict["run_id"] == "audit"
        found[verdict["event"]["origin"]] += 1
    for message in answers["dead"]:
        found[dict(message.headers())["genprint-origin"].decode()] += 1
    return found


def committed(stream: Stream, group: str) -> dict[tuple[str, int], int]:
    with AdminClient({"bootstrap.servers": stream.bootstrap}) as admin:
        [future] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        return {(tp.topic, tp.partition): tp.offset for tp in future.result().topic_partitions}


EVERYTHING = ("--from", "earliest", "--to", "now", "--set", "kafka.commit_interval_s=0.02")


def kill_after_the_first_verdicts(stream: Stream, bundle: Path) -> None:
    """Begin to replay everything, and stop half-way."""
    first = replay(stream, bundle, *EVERYTHING, "--set", "pipeline.max_in_flight=16")
    try:
        until(lambda: sum(ends(stream, "verdicts").values()) > 100, "the first verdicts")
    finally:
        first.kill()
        first.communicate()


def test_a_killed_replay_goes_on_to_the_end_it_had(stream: Stream, bundle: Path) -> None:
    kill_after_the_first_verdicts(stream, bundle)
    before = ends(stream)
    for number in range(MORE):
        stream.produce(encoded_image(40, seed=EVENTS + number), PNG)
    stream.flush()
    assert ended(replay(stream, bundle, *EVERYTHING)) == (0, "run audit: every event of the span has its answer")
    expected = {f"{stream.topic('images')}/{number}/{at}" for number, end in before.items() for at in range(end)}
    found = origins(stream, EVENTS)
    assert set(found) == expected
    assert set(found.values()) == {1}
    assert committed(stream, stream.prefix) == {}  # the live group has read nothing
    code, err = ended(replay(stream, bundle, "--from", "earliest", "--to", "latest"))
    assert code == 2
    assert "this run was begun with --from earliest --to now" in err


def test_what_retention_removes_before_it_is_read_is_counted_and_no_success(stream: Stream, bundle: Path) -> None:
    kill_after_the_first_verdicts(stream, bundle)
    left = {number: end - 20 for number, end in ends(stream).items()}
    with AdminClient({"bootstrap.servers": stream.bootstrap}) as admin:
        places = [TopicPartition(stream.topic("images"), number, at) for number, at in left.items()]
        for removed in admin.delete_records(places).values():
            removed.result()
    status, said = ended(replay(stream, bundle, *EVERYTHING))
    count = re.search(r"run audit: (\d+) offsets of the span were removed by retention before they were read", said)
    assert count, said
    lost = int(count[1])
    assert (status, lost > 0) == (2, True)
    found = origins(stream, EVENTS - lost)
    assert (len(found), set(found.values())) == (EVENTS - lost, {1})
    assert found.keys() >= {
        f"{stream.topic('images')}/{number}/{at + i}" for number, at in left.items() for i in range(20)
    }


def test_deferred_events_that_are_removed_before_they_are_due_are_no_success(stream: Stream, bundle: Path) -> None:
    kind = "retry.replay.audit"
    create_topics(stream.bootstrap, {stream.topic(kind): PARTITIONS})
    for number in range(8):
        missing = json.dumps({"uri": "http://127.0.0.1:9/x.png"}).encode()  # nobody listens there
        stream.produce(missing, {"content-type": b"application/json"}, key=b"%d" % number)
    stream.flush()
    sources = ("--set", "fetch.sources=http://127.0.0.1:9", "--set", "fetch.allow_private_addresses=true")
    first = replay(stream, bundle, *EVERYTHING, *sources, "--set", "fetch.retry_delay_s=600")
    try:
        until(lambda: sum(ends(stream, kind).values()) > 0, "deferrals")
    finally:
        first.kill()
        first.communicate()
    with AdminClient({"bootstrap.servers": stream.bootstrap}) as admin:
        places = [TopicPartition(stream.topic(kind), number, end) for number, end in ends(stream, kind).items() if end]
        for removed in admin.delete_records(places).values():
            removed.result()
    status, said = ended(replay(stream, bundle, *EVERYTHING, *sources, "--set", "fetch.retry_delay_s=1"))
    assert status == 2
    assert "removed by retention before they were read" in said


def test_offsets_bound_it_and_deferred_events_are_waited_for(stream: Stream, bundle: Path) -> None:
    missing = json.dumps({"uri": "http://127.0.0.1:9/x.png"}).encode()  # nobody listens there
    before = ends(stream)
    # Made by somebody else with more partitions than the images have, and only those get something.
    count = PARTITIONS + 3
    create_topics(stream.bootstrap, {f"{stream.topic('retry')}.replay.audit": count})
    keys = (b"%d" % number for number in range(1_000))
    for key in islice((key for key in keys if (murmur2(key) & 0x7FFFFFFF) % count >= PARTITIONS), 8):
        stream.produce(missing, {"content-type": b"application/json"}, key=key)
    stream.flush()
    first = {number: end - 10 for number, end in before.items()}
    after = ends(stream)
    code, err = ended(
        replay(
            stream,
            bundle,
            "--from",
            ",".join(f"{number}:{at}" for number, at in first.items()),
            "--to",
            "latest",
            *("--set", "fetch.sources=http://127.0.0.1:9", "--set", "fetch.allow_private_addresses=true"),
            *("--set", "fetch.attempts=2", "--set", "fetch.retry_delay_s=2"),
        )
    )
    assert (code, err) == (0, "run audit: every event of the span has its answer")
    topic = stream.topic("images")
    expected = {f"{topic}/{number}/{at}" for number, end in after.items() for at in range(first[number], end)}
    found = origins(stream, len(expected))
    assert set(found) == expected
    assert set(found.values()) == {1}
    assert len(expected) == 4 * 10 + 8
    reasons = Counter(dict(message.headers())["genprint-reason"] for message in stream.answers(len(expected))["dead"])
    assert reasons[b"source_exhausted"] == 8
    assert sum(ends(stream, "retry.replay.audit", count).values()) >= 8


def test_what_is_not_there_cannot_be_replayed(stream: Stream, bundle: Path) -> None:
    code, err = ended(replay(stream, bundle, "--from", "0:0", "--to", "0:100000"))
    assert code == 2
    assert err == f"genprint: {stream.topic('images')}/0: --to 100000 is beyond its end, {ends(stream)[0]}"


def test_live_workers_beside_it_keep_their_events(stream: Stream, bundle: Path, tmp_path: Path) -> None:
    with WorkerProcess(stream.environment(bundle), tmp_path / "worker.log"):
        code, _ = ended(replay(stream, bundle, "--from", "earliest", "--to", "latest"))
        assert code == 0
        answers = stream.answers(2 * EVENTS)
    runs = Counter(json.loads(message.value())["run_id"] for message in answers["verdicts"])
    assert runs["live"] == runs["audit"] > EVENTS * 0.9

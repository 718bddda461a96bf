"""The example consumers read a real worker's verdicts, and verdicts of a version that is still to come.

The topic is compressed as ``genprint topics create`` would have it. A doctored copy of each consumer is run
beside it: the checks below must tell the two apart.
"""

import copy
import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.apache_kafka import ApacheKafka
from tests.deploy.consumer_programs import SOURCES, Consuming, Program, build, missing
from tests.deploy.requirements import require
from tests.integration.worker_process import PARTITIONS, Stream, WorkerProcess
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.decision import table as policy
from worker.decision.attribution import ANIMATED
from worker.kafka.topics import declared_topics
from worker.messages.verdict import VERDICT_TYPE
from worker.settings import PolicySettings, Settings

pytestmark = pytest.mark.integration

LANGUAGES = tuple(SOURCES)
BRIGHTNESS = {"dark.png": 40, "bright.png": 220, "middle.png": 128, "strange.png": 150, "grey.png": 90}
_DEADLINE_S = 90

Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Future:
    """A verdict that today's worker does not write, and what is to be made of it."""

    value: bytes
    action: str
    unknown: tuple[str, ...] = ()
    """Words that the consumer must name, each in one of its complaints."""
    type: str = VERDICT_TYPE


def grown(verdict: dict[str, Any], number: int, change: Change) -> bytes:
    """Another verdict, changed."""
    changed = copy.deepcopy(verdict)
    changed["verdict_id"] = f"future-{number}"
    change(changed)
    return json.dumps(changed).encode()


def futures(allowed: dict[str, Any]) -> dict[str, Future]:
    """By verdict_id; ``allowed`` is a verdict with the action *allow*."""
    changes: list[tuple[Change, str, tuple[str, ...]]] = [
        (lambda v: v.update(provenance={"claims": [1, None]}, more="x"), "allow", ()),
        (lambda v: v["generated"].update(views=[0.1, 0.2]) or v["event"].update(depth=[[[]]]), "allow", ()),
        (lambda v: v.update(action="quarantine"), "review", ("quarantine",)),
        (lambda v: v["generated"].update(decision="manipulated"), "review", ("manipulated",)),
        (lambda v: v["generated"].update(reasons=["conflict", "watermark"]), "review", ("watermark",)),
        (
            lambda v: v.update(action="block", more=1) or v["generated"].update(decision="x", reasons=["y"]),
            "review",
            ("decision x", "reason y"),
        ),
        # These would break version 1; a consumer survives them all the same.
        (lambda v: v.pop("generated"), "review", ("decision",)),
        (lambda v: v.pop("action"), "review", ("action",)),
        (
            lambda v: v.update(action=["allow"], generated={"decision": {}, "reasons": {}}),
            "review",
            ("action", "reasons"),
        ),
        (lambda v: v["generated"].update(reasons=[7]), "review", ("reason",)),
        (lambda v: v.update(event=None, attribution="x"), "allow", ()),
    ]
    found = {
        f"future-{number}": Future(grown(allowed, number, change), action, unknown)
        for number, (change, action, unknown) in enumerate(changes)
    }
    found["second"] = Future(
        grown(allowed, 0, lambda v: v.update(verdict_id="second")), "review", ("v2",), "genprint.verdict.v2"
    )
    found["nonsense"] = Future(b"\xff not JSON", "review", ("not JSON",))
    found["nothing"] = Future(b"", "review", ("not JSON",))
    found["list"] = Future(b"[1, {}]", "review", ("action",))
    return found


@dataclass(frozen=True)
class Topic:
    """Verdicts to read: a worker's, and future ones."""

    stream: Stream
    verdicts: list[dict[str, Any]]
    future: dict[str, Future]
    ends: dict[int, int]
    """By partition: the offset that follows its last verdict."""

    @property
    def name(self) -> str:
        return self.stream.topic("verdicts")


@pytest.fixture(scope="module")
def topic(apache_kafka: ApacheKafka, tmp_path_factory: pytest.TempPathFactory) -> Topic:
    place = tmp_path_factory.mktemp("consumers")
    settings = Settings()
    [declared] = [t for t in declared_topics(settings) if t.name == settings.kafka.verdicts_topic]
    stream = Stream(apache_kafka.bootstrap, {"compression.type": declared.configs["compression.type"]})
    bundle = small_bundle(place / "bundle")
    with WorkerProcess(stream.environment(bundle.path), place / "worker.log"):
        for name, brightness in BRIGHTNESS.items():
            stream.produce(encoded_image(brightness), {"content-type": b"image/png", **_identity(name)}, name.encode())
        stream.flush()
        found = stream.answers(len(BRIGHTNESS))
    verdicts = [json.loads(message.value()) for message in found["verdicts"]]
    assert len(verdicts) == len(BRIGHTNESS)
    future = futures(next(verdict for verdict in verdicts if verdict["action"] == "allow"))
    _write_future(stream, verdicts[0], future)
    written = stream.answers(len(verdicts) + len(future) + 2)["verdicts"]
    ends: dict[int, int] = {}
    for message in written:
        ends[message.partition()] = max(ends.get(message.partition(), 0), message.offset() + 1)
    return Topic(stream, verdicts, future, ends)


def _identity(name: str) -> dict[str, bytes]:
    attributes = {"specversion": "1.0", "type": "genprint.image.v1", "source": "urn:a", "id": name, "subject": name}
    return {f"ce_{key}": text.encode() for key, text in attributes.items()}


def _write_future(stream: Stream, verdict: dict[str, Any], future: dict[str, Future]) -> None:
    """A transaction that is aborted, then one that is not, with two verdicts twice."""
    producer = Producer(
        {"bootstrap.servers": stream.bootstrap, "transactional.id": uuid.uuid4().hex, "linger.ms": 5, "log_level": 0}
    )
    producer.init_transactions(30)
    name = stream.topic("verdicts")
    aborted = json.dumps({**verdict, "verdict_id": "aborted"}).encode()
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.produce(name, aborted, partition=partition, headers=_headers("aborted"))
    producer.flush(30)
    producer.abort_transaction(30)
    producer.begin_transaction()
    for number, (verdict_id, one) in enumerate(future.items()):
        partition = number % PARTITIONS
        producer.produce(name, one.value, partition=partition, headers=_headers(verdict_id, one.type))
    again = json.dumps(verdict).encode()
    for partition in (0, 1):
        producer.produce(name, again, partition=partition, headers=_headers(verdict["verdict_id"]))
    producer.commit_transaction(30)
    producer.close()


def _headers(verdict_id: str, kind: str = VERDICT_TYPE) -> list[tuple[str, str | bytes | None]]:
    return [("content-type", b"application/json"), ("ce_type", kind.encode()), ("ce_id", verdict_id.encode())]


def await_end(topic: Topic, consumers: Sequence[Consuming]) -> None:
    """Until each group has committed all verdicts."""
    deadline = time.monotonic() + _DEADLINE_S
    waiting = list(consumers)
    with AdminClient({"bootstrap.servers": topic.stream.bootstrap, "log_level": 0}) as admin:
        while waiting:
            assert time.monotonic() < deadline, f"{[c.group for c in waiting]} did not read all verdicts"
            for consumer in waiting:
                consumer.require_running()
            waiting = [consumer for consumer in waiting if not _is_at_end(admin, topic, consumer.group)]
            time.sleep(0.1)


def _is_at_end(admin: Any, topic: Topic, group: str) -> bool:
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic.name, number) for number in topic.ends])
    [future] = admin.list_consumer_group_offsets([asked]).values()
    committed = {found.partition: found.offset for found in future.result().topic_partitions}
    return all(committed.get(number, -1) >= end for number, end in topic.ends.items())


@dataclass(frozen=True)
class Ran:
    """What a consumer made of the topic, and with which status it ended when it was asked to."""

    program: Program
    actions: list[dict[str, Any]]
    status: int
    path: Path


@pytest.fixture(scope="module")
def ran(topic: Topic, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Ran]:
    """By language, and whether it is the doctored copy; all at the same time. Only languages that are there."""
    place = tmp_path_factory.mktemp("programs")
    there = [language for language in LANGUAGES if missing(language) is None]
    programs = {
        (language, doctored): build(language, place / f"{language}-{doctored}", doctored=doctored)
        for language in there
        for doctored in (False, True)
    }
    with ExitStack() as stack:
        started = {
            key: stack.enter_context(_consuming(topic, program, place, to_file=not key[1]))
            for key, program in programs.items()
        }
        await_end(topic, list(started.values()))
        statuses = {key: consumer.stop() for key, consumer in started.items()}
    return {key: Ran(programs[key], c.actions(), statuses[key], c.path) for key, c in started.items()}


def _consuming(topic: Topic, program: Program, place: Path, *, to_file: bool, group: str | None = None) -> Consuming:
    group = group or f"{program.language}-{uuid.uuid4().hex[:8]}"
    return Consuming(program, topic.stream.bootstrap, topic.name, group, place, to_file=to_file)


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    require(missing(name))
    return name


def test_the_worker_gave_verdicts_of_every_kind(topic: Topic) -> None:
    decisions = {verdict["event"]["subject"]: verdict["generated"]["decision"] for verdict in topic.verdicts}
    assert set(decisions.values()) == {"real", "generated", "unsure"}


def test_each_verdict_is_acted_on_once_as_it_says(
    language: str, ran: dict[tuple[str, bool], Ran], topic: Topic
) -> None:
    by_id = {action["verdict_id"]: action for action in ran[language, False].actions}
    assert len(by_id) == len(ran[language, False].actions) == len(topic.verdicts) + len(topic.future)
    for verdict in topic.verdicts:
        assert by_id[verdict["verdict_id"]] == {
            "verdict_id": verdict["verdict_id"],
            "subject": verdict["event"]["subject"],
            "action": verdict["action"],
            "decision": verdict["generated"]["decision"],
            "probability": pytest.approx(verdict["generated"]["probability"]),
            "source": verdict["attribution"]["source"],
            "unknown": [],
        }


def test_what_is_not_known_is_for_review(language: str, ran: dict[tuple[str, bool], Ran], topic: Topic) -> None:
    by_id = {action["verdict_id"]: action for action in ran[language, False].actions}
    for verdict_id, future in topic.future.items():
        action = by_id[verdict_id]
        assert (verdict_id, action["action"]) == (verdict_id, future.action)
        assert bool(action["unknown"]) == (future.action == "review")
        assert all(word in " | ".join(action["unknown"]) for word in future.unknown), action


def test_what_was_aborted_is_never_seen(language: str, ran: dict[tuple[str, bool], Ran]) -> None:
    assert "aborted" not in {action["verdict_id"] for action in ran[language, False].actions}


def test_it_stops_when_it_is_asked_to(language: str, ran: dict[tuple[str, bool], Ran]) -> None:
    assert ran[language, False].status == (143 if language == "java" else 0)  # a JVM says which signal ended it


def test_a_consumer_with_mistakes_is_told_apart(language: str, ran: dict[tuple[str, bool], Ran], topic: Topic) -> None:
    actions = ran[language, True].actions
    assert "aborted" in {action["verdict_id"] for action in actions}
    assert "quarantine" in {action["action"] for action in actions}
    assert len([a for a in actions if a["verdict_id"] == topic.verdicts[0]["verdict_id"]]) == 3


def test_a_new_group_that_has_the_file_does_nothing_twice(
    ran: dict[tuple[str, bool], Ran], topic: Topic, tmp_path: Path
) -> None:
    """All of them read everything again: what a reset of offsets, or a crash before the commit, would do."""
    lost = 2
    with ExitStack() as stack:
        started = []
        for (language, doctored), before in ran.items():
            if doctored:
                continue
            consumer = _consuming(topic, before.program, tmp_path, to_file=True)
            lines = before.path.read_text().splitlines(keepends=True)
            consumer.path.write_text("".join(lines[:-lost]) + lines[-lost][:20])  # a crash in the middle of a line
            started.append((language, stack.enter_context(consumer), lines))
        assert started
        await_end(topic, [consumer for _, consumer, _ in started])
        for language, consumer, lines in started:
            after = consumer.path.read_text().splitlines(keepends=True)
            assert after[:-lost] == lines[:-lost], language
            ids = sorted(action["verdict_id"] for action in consumer.actions())
            assert ids == sorted(json.loads(line)["verdict_id"] for line in lines), language


@pytest.mark.parametrize("language", LANGUAGES)
def test_consumers_know_every_value_of_today(language: str) -> None:
    """A value that the policy gains goes to review until the consumers learn it; the examples are to know them all."""
    text = SOURCES[language].read_text()
    judged = [
        policy.judge(band, accepted, is_real=is_real, views_disagree=disagree)
        for band in (None, "low", "middle", "high")
        for accepted in (None, "gan")
        for is_real in (False, True)
        for disagree in (False, True)
    ]
    actions = PolicySettings()
    values = {found.decision for found in judged} | {reason for found in judged for reason in found.reasons}
    values |= {actions.real, actions.generated, actions.unsure, VERDICT_TYPE, ANIMATED}
    assert len(values) == 13
    assert not [value for value in values if f'"{value}"' not in text]

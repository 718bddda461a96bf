"""The auditor: reads every answer with another client, committed ones only, and compares with what was sent."""

import json
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.chaos.feed import Sent
from tests.integration.worker_process import PARTITIONS, Stream

Kind = Literal["verdicts", "retry", "dead"]
KINDS: tuple[Kind, ...] = ("verdicts", "retry", "dead")
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, a deferral or a dead letter."""

    kind: Kind
    origin: str
    attempt: int
    found: float | str
    """The verdict's logit, or the reason."""
    verdict_id: str | None
    at: float
    """When it could be read (monotonic)."""

    @property
    def is_final(self) -> bool:
        """A deferral promises another answer."""
        return self.kind != "retry"


class Answers:
    """Answers of a stream as they become readable, collected on a thread of its own."""

    def __init__(self, stream: Stream) -> None:
        self._kinds = {stream.topic(kind): kind for kind in KINDS}
        self._consumer = Consumer(
            {
                "bootstrap.servers": stream.bootstrap,
                "group.id": uuid.uuid4().hex,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "reconnect.backoff.max.ms": 500,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        self._places = [TopicPartition(topic, number, 0) for topic in self._kinds for number in range(PARTITIONS)]
        self._at_end: set[tuple[str | None, int | None]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="auditor", daemon=True)
        self.found: list[Answer] = []
        self.final: Counter[str] = Counter()
        """Final answers of each origin."""

    def start(self) -> None:
        """Begin to read, from the beginning."""
        self._consumer.assign(self._places)
        self._thread.start()

    @property
    def at_end(self) -> bool:
        """Whether all that is committed has been read."""
        return len(self._at_end) == len(self._places)

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(1000, 0.1):
                self._take(message)

    def _take(self, message: Any) -> None:
        place = (message.topic(), message.partition())
        if error := message.error():
            if error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add(place)
            return
        self._at_end.discard(place)
        answer = read_answer(self._kinds[message.topic()], message.value(), message.headers() or [])
        self.found.append(answer)
        if answer.is_final:
            self.final[answer.origin] += 1


def read_answer(kind: Kind, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Answer:
    """As the topics' documentation says."""
    now = time.monotonic()
    if kind == "verdicts":
        verdict = json.loads(value or b"")
        event, logit = verdict["event"], verdict["generated"]["scores"][0]["logit"]
        return Answer(kind, event["origin"], event["attempt"], logit, verdict["verdict_id"], now)
    ours = {name: text.decode() for name, text in headers if name.startswith("genprint-")}
    return Answer(kind, ours["genprint-origin"], int(ours["genprint-attempt"]), ours["genprint-reason"], None, now)


@dataclass(frozen=True)
class Audit:
    """What the comparison by origin says."""

    events: int
    answered: int
    lost: int
    duplicated: int
    """Answers beyond the first of their origin; deferrals beyond the first of their origin and attempt."""
    unlike: int
    """Duplicates that do not have the verdict_id of the first."""
    wrong: int
    """Answers that are not what their event must get."""
    wrong_example: str
    lost_example: str
    foreign: int
    """Answers to what was never sent."""
    deferred: int
    longest_silence_s: float
    """Longest time without an answer of a partition that had something to answer."""


def audit(sent: Mapping[str, Sent], answers: Iterable[Answer]) -> Audit:
    """Compare; ``answers`` in the order in which they were read."""
    answers = list(answers)
    final: defaultdict[str, list[Answer]] = defaultdict(list)
    deferrals: Counter[tuple[str, int]] = Counter()
    for answer in answers:
        if answer.is_final:
            final[answer.origin].append(answer)
        else:
            deferrals[answer.origin, answer.attempt] += 1
    wrong = [
        f"{origin}: {found.found} instead of {sent[origin].expected}"
        for origin, own in final.items()
        if origin in sent
        for found in own
        if not _agrees(found.found, sent[origin].expected)
    ]
    return Audit(
        events=len(sent),
        answered=len(final.keys() & sent.keys()),
        lost=len(sent.keys() - final.keys()),
        duplicated=sum(len(own) - 1 for own in final.values()) + sum(n - 1 for n in deferrals.values()),
        unlike=sum(1 for own in final.values() for other in own[1:] if other.verdict_id != own[0].verdict_id),
        wrong=len(wrong),
        wrong_example=wrong[0] if wrong else "",
        lost_example=min(sent.keys() - final.keys(), default=""),
        foreign=len(final.keys() - sent.keys()),
        deferred=sum(deferrals.values()),
        longest_silence_s=max(silences(sent, answers).values(), default=0.0),
    )


def silences(sent: Mapping[str, Sent], answers: Iterable[Answer]) -> dict[str, float]:
    """The longest time, by partition, without an answer while one was due, in seconds."""
    last: dict[str, float] = {}
    longest: dict[str, float] = {}
    for answer in answers:
        if answer.origin not in sent:
            continue
        partition = answer.origin.rpartition("/")[0]
        since = max(last.get(partition, 0.0), sent[answer.origin].at)
        longest[partition] = max(longest.get(partition, 0.0), answer.at - since)
        last[partition] = answer.at
    return longest


def _agrees(found: float | str, expected: float | str) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    return abs(found - expected) < _TOLERANCE

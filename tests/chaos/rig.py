"""What every scenario needs: a broker, the bundle, and one case at a time: topics, feed, workers, auditor."""

import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.kafka_cluster import KafkaCluster
from tests.chaos.audit import Answers, Audit, audit
from tests.chaos.events import Event, Pictures
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.report import Result
from tests.integration.worker_process import Stream

SESSION_S, TRANSACTION_S = 6.0, 15.0
TIMEOUTS = {"KAFKA__SESSION_TIMEOUT_S": str(SESSION_S), "KAFKA__TRANSACTION_TIMEOUT_S": str(TRANSACTION_S)}
"""Settings of workers whose time-outs a promise names."""
_TICK_S = 0.02
_FEWEST = 400
_ENDLESS = 10**9
_QUIET_S = 2.0
"""How long we go on looking after the last answer: a duplicate comes late."""


@dataclass
class Rig:
    """The options of a run and the servers that scenarios share."""

    kafka: ApacheKafka
    bundle: Path
    out: Path
    seed: int
    scale: float

    def events(self, count: int) -> int:
        """How many, at this scale."""
        return max(min(_FEWEST, count), int(count * self.scale))

    def times(self, count: int) -> int:
        """How often, at this scale."""
        return max(1, round(count * self.scale))

    @contextmanager
    def case(
        self,
        fault: str,
        promise: str,
        settings: Mapping[str, str] | None = None,
        *,
        kafka: ApacheKafka | KafkaCluster | None = None,
        bootstrap: str | None = None,
        static: bool = True,
    ) -> Iterator["Case"]:
        """One fault, on topics and with processes of its own; all of them are stopped at the end.

        Args:
            fault: its name.
            promise: what should hold.
            settings: of the workers, as environment variables without their prefix.
            kafka: a broker or cluster of its own, where that is harmed.
            bootstrap: where the workers find it, if not directly.
            static: whether workers keep their identity (``kafka.instance_id``) when they start again.
        """
        case = Case(self, fault, promise, settings or {}, kafka or self.kafka, bootstrap=bootstrap, static=static)
        try:
            yield case
        finally:
            case.close()

    @contextmanager
    def own_broker(self, name: str) -> Iterator[ApacheKafka]:
        """Another Apache Kafka, to be harmed."""
        with ApacheKafka(self.out / "logs" / f"kafka-{name}.log") as kafka:
            yield kafka


class Case:
    """One fault: send, disturb, wait, compare."""

    def __init__(
        self,
        rig: Rig,
        fault: str,
        promise: str,
        settings: Mapping[str, str],
        kafka: ApacheKafka | KafkaCluster,
        *,
        bootstrap: str | None,
        static: bool,
    ) -> None:
        self.rig = rig
        self.fault, self.promise = fault, promise
        self.kafka = kafka
        self.random = random.Random(f"{rig.seed} {fault}")
        self.pictures = Pictures(rig.seed)
        self.stream = Stream(kafka.bootstrap, replication=kafka.replication)
        logs = rig.out / "logs" / fault.replace(": ", "-").replace(" ", "_")
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        self.logs = logs
        """A folder of this case's own, with the logs of its workers."""
        self.settings = dict(settings)
        """Settings of workers that are started from now on."""
        self._static = static
        self._bootstrap = bootstrap or kafka.bootstrap
        self._unload = False
        self.feed = Feed(kafka.bootstrap, self.stream.topic("images"))
        self.answers = Answers(self.stream)
        self.fleet = Fleet(self._environment, logs)
        self.figures: dict[str, Any] = {}
        self.broken: list[str] = []
        self._began = time.monotonic()
        self._closing = ExitStack()
        self._closing.callback(self.answers.close)
        self._closing.callback(self.feed.close)
        self._closing.callback(self.fleet.stop)
        self.answers.start()

    def send(self, events: Iterable[Event], per_s: float | None = None) -> None:
        """Begin to send, at that rate or as fast as it goes."""
        self.feed.send(events, per_s)

    def load(self, per_s: float) -> None:
        """Begin to send ordinary events at that rate, until the end of the case."""
        self.feed.send(takewhile(lambda _: not self._unload, self.inline(_ENDLESS)), per_s)

    def inline(self, count: int) -> Iterator[Event]:
        """So many ordinary events."""
        return self.pictures.inline(count)

    @property
    def answered(self) -> int:
        """Events with a committed answer so far."""
        return len(self.answers.final)

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = 60) -> bool:
        """Wait, tending the workers; a wait in vain breaks the promise."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                self.broken.append(f"{what}: not within {deadline_s:.0f} s")
                return False
            self.fleet.tend()
            time.sleep(_TICK_S)
        return True

    def until_more(self, when: str, deadline_s: float = 60) -> bool:
        """Wait for another answer."""
        already = self.answered
        return self.until(lambda: self.answered > already, f"answers {when}", deadline_s)

    def let_pass(self, seconds: float) -> None:
        """Go on for a while, tending the workers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.fleet.tend()
            time.sleep(min(_TICK_S, seconds))

    def require(self, held: bool, otherwise: str) -> None:
        """Note what does not hold."""
        if not held:
            self.broken.append(otherwise)

    def finish(self, deadline_s: float = 90, *, duplicates: bool = False, silence_s: float = float("inf")) -> Result:
        """Wait for all answers and a little longer, stop the workers, read everything anew and compare.

        Args:
            deadline_s: for the events that are not answered yet.
            duplicates: allowed, as long as they have the same verdict_id.
            silence_s: the longest time for which a partition may get no answer.
        """
        self._unload = True
        self.until(lambda: self.feed.done, "everything sent", deadline_s)
        self.until(lambda: self.answered >= len(self.feed.sent), "everything answered", deadline_s)
        self.let_pass(_QUIET_S)
        self.fleet.stop()
        return self.result_of(self._audit(), duplicates=duplicates, silence_s=silence_s)

    def result_of(self, found: Audit, *, duplicates: bool = False, silence_s: float = float("inf")) -> Result:
        """The result of a case whose workers have ended; see ``finish``."""
        self.require(found.lost == 0, f"{found.lost} lost, as {found.lost_example}")
        self.require(duplicates or found.duplicated == 0, f"{found.duplicated} duplicated")
        self.require(found.unlike == 0, f"{found.unlike} duplicates with another verdict_id")
        self.require(found.wrong == 0, f"{found.wrong} wrong answers, as {found.wrong_example}")
        self.require(found.foreign == 0, f"{found.foreign} answers to nothing that was sent")
        silent = found.longest_silence_s
        self.require(silent <= silence_s, f"a partition was silent for {silent:.1f} s")
        if found.deferred:
            self.figures["deferrals"] = found.deferred
        if self.fleet.exits:
            self.figures["ended by themselves"] = len(self.fleet.exits)
        return Result(
            fault=self.fault,
            promise=self.promise,
            events=found.events,
            lost=found.lost,
            duplicated=found.duplicated,
            longest_silence_s=round(found.longest_silence_s, 2),
            seconds=round(time.monotonic() - self._began, 1),
            seed=self.rig.seed,
            scale=self.rig.scale,
            broken=tuple(self.broken),
            figures=self.figures,
        )

    def close(self) -> None:
        """Stop everything, also when a part of it fails to stop."""
        self._closing.close()

    def _audit(self) -> Audit:
        """Counts by a reader that begins anew, when nothing can come any more; times by the one that was there."""
        again = Answers(self.stream)
        again.start()
        try:
            self.until(lambda: again.at_end and self.answers.at_end, "the end of the answers read")
        finally:
            again.close()
        counted = audit(self.feed.sent, again.found)
        timed = audit(self.feed.sent, self.answers.found)
        self.require(
            len(again.found) == len(self.answers.found),
            f"{len(again.found)} answers in the end, {len(self.answers.found)} as they came",
        )
        return Audit(**{**vars(counted), "longest_silence_s": timed.longest_silence_s})

    def _environment(self, number: int) -> dict[str, str]:
        identity = {"KAFKA__INSTANCE_ID": f"{self.stream.prefix}-{number}"} if self._static else {}
        own = {
            **identity,
            "KAFKA__BOOTSTRAP_SERVERS": self._bootstrap,
            "IMAGES__DECODE_PROCESSES": "1",
            "LOG_LEVEL": "info",
            **self.settings,
        }
        return self.stream.environment(self.rig.bundle, **own)

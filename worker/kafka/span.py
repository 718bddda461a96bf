"""The span of a topic that a replay covers, as the user names it; ``worker.kafka.replay`` reads it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from worker.errors import StartupError
from worker.settings import Settings

_OFFSETS = re.compile(r"[0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*")
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_EXPECTED = "expected a time with zone (2026-11-24T08:00+00:00), now, earliest, latest, or offsets (0:100,1:250)"


@dataclass(frozen=True)
class Point:
    """One end of a span: a time, an end of the topic, or an offset for each of some partitions."""

    text: str
    at_ms: int | None = None
    edge: Literal["earliest", "latest"] | None = None
    offsets: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Span:
    """The offsets from the first point up to the second, without the latter."""

    start: Point
    end: Point

    def partitions(self, existing: Collection[int], topic: str) -> set[int]:
        """The partitions that the span covers: those that it names, else all.

        Raises:
            StartupError: a named partition does not exist, or the two points name different ones.
        """
        named = [set(point.offsets) for point in (self.start, self.end) if point.offsets is not None]
        if len(named) == 2 and named[0] != named[1]:
            raise StartupError("--from and --to name different partitions; name the same in both")
        covered = named[0] if named else set(existing)
        if unknown := covered - set(existing):
            raise StartupError(f"topic {topic} has no partition {min(unknown)}")
        return covered


def read_span(start: str, end: str) -> Span:
    """The span between two points as written on the command line.

    Raises:
        StartupError: names the option and what was expected.
    """
    span = Span(_point("--from", start), _point("--to", end))
    first, last = span.start, span.end
    if first.at_ms is not None and last.at_ms is not None and first.at_ms >= last.at_ms:
        raise StartupError(f"--from {start} is not before --to {end}")
    if first.edge == "latest" or last.edge == "earliest":
        raise StartupError(f"there is nothing between --from {start} and --to {end}")
    for partition in set(first.offsets or ()) & set(last.offsets or ()):
        assert first.offsets is not None
        assert last.offsets is not None
        if first.offsets[partition] > last.offsets[partition]:
            raise StartupError(f"partition {partition}: --from is after --to")
    return span


def replay_settings(settings: Settings, run_id: str, topic: str | None) -> Settings:
    """Settings with a group and a retry topic of their own, so that a replay does not touch live traffic.

    Raises:
        StartupError: ``run_id`` cannot be part of a topic's name, or is the live one.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise StartupError(f"--run-id {run_id!r}: expected up to 100 letters, digits, dots, dashes and underscores")
    if run_id == settings.run_id:
        raise StartupError(
            f"--run-id {run_id} is the run of live events: their verdicts would get the same verdict_id; pass another"
        )
    kafka = settings.kafka.model_copy(
        update={
            "group_id": f"{settings.kafka.group_id}.replay.{run_id}",
            "images_topic": topic or settings.kafka.images_topic,
            "retry_topic": f"{settings.kafka.retry_topic}.replay.{run_id}",
        }
    )
    # A live worker on this machine has the port already; to scrape a replay, set http.port.
    http = settings.http if "port" in settings.http.model_fields_set else settings.http.model_copy(update={"port": 0})
    pipeline = settings.pipeline.model_copy(update={"journal": None})  # it is the live worker's
    return settings.model_copy(update={"run_id": run_id, "kafka": kafka, "http": http, "pipeline": pipeline})


def _point(option: str, text: str) -> Point:
    if text in ("earliest", "latest", "now"):
        return Point(text, edge="earliest" if text == "earliest" else "latest")
    if _OFFSETS.fullmatch(text):
        pairs = [pair.split(":") for pair in text.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) < len(pairs):
            raise StartupError(f"{option} {text}: a partition is named twice")
        return Point(text, offsets=offsets)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise StartupError(f"{option} {text}: {_EXPECTED}") from error
    if at.tzinfo is None:
        raise StartupError(f"{option} {text}: a time without its zone; {_EXPECTED}")
    return Point(text, at_ms=max(0, int(at.timestamp() * 1000)))

"""The verdict, its JSON Schema, and its Kafka record.

Schema version 1 only gains optional fields; its enums are open.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, WithJsonSchema

from worker.messages.records import Message

VERDICT_TYPE = "genprint.verdict.v1"

Decision = Literal["real", "generated", "unsure"]
Share = Annotated[float, Field(ge=0, le=1)]


def _open(*values: str) -> WithJsonSchema:
    """An enum that may gain values: consumers must treat one that they do not know as a case for review."""
    return WithJsonSchema({"type": "string", "examples": list(values)})


class _Part:
    """Base of plain dataclasses: validating the worker's own values would cost a tenth of an event's time."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class EventPart(_Part):
    """The event that the verdict answers."""

    id: str
    source: str
    subject: str | None
    origin: str
    """topic/partition/offset where the event first came in."""
    attempt: int
    """Above 1 the event was deferred, and its verdict may be out of its key's order."""
    attributes: dict[str, str]
    origin_topic_id: str | None = None
    """Which topic of the origin's name it was, in hexadecimal; null where the broker gives topics no ids."""


@dataclass(frozen=True, slots=True)
class ImagePart(_Part):
    """The image that the verdict is about."""

    sha256: str
    format: str
    width: int
    height: int
    """Stored pixels, before EXIF orientation."""
    bytes: int
    uri: str | None
    """Address of a claim check, without its query."""


@dataclass(frozen=True, slots=True)
class ScorePart(_Part):
    """The score of one model; the logit is uncalibrated."""

    model: str
    logit: float
    probability: Share


@dataclass(frozen=True, slots=True)
class GeneratedPart(_Part):
    """Whether the image was generated."""

    probability: Share | None
    """Calibrated probability that it was generated, at the worker's prior; null where the image is too small."""
    decision: Annotated[Decision, _open("real", "generated", "unsure")]
    reasons: tuple[str, ...]
    """Reasons why the decision is unsure, and other facts that a reviewer should know."""
    scores: tuple[ScorePart, ...]


@dataclass(frozen=True, slots=True)
class CandidatePart(_Part):
    """A label and the distance to the nearest of its templates."""

    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class AttributionPart(_Part):
    """The generator to which the image is attributed."""

    source: str | None
    """A label, `unknown` (no template explains the image), or null."""
    conflict: bool
    """Detector and templates contradict each other."""
    distance: float | None
    p_value: Share | None
    """Conformal p-value: share of the nearest label's own images that lie at least as far away."""
    candidates: tuple[CandidatePart, ...]
    library_version: str
    """Version of the template library; the label `library` of the metric `genprint_bundle_info`."""


@dataclass(frozen=True, slots=True)
class BundlePart(_Part):
    """The bundle whose models gave the scores."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class TimingPart(_Part):
    """Time in milliseconds; `queue` and `total` count from the record's timestamp; see `clock`."""

    queue: float
    fetch: float
    decode: float
    inference: float
    total: float
    clock: Annotated[str, _open("broker", "producer")] | None = None
    """Whose timestamp it was: the broker's, set when the record arrived, or the producer's, which is not believed to be
    earlier than the worker itself can tell. Null where the image came from no topic."""


@dataclass(frozen=True, slots=True)
class Verdict(_Part):
    """The answer to one image event (schema version 1: later minor versions only add optional fields)."""

    verdict_id: str
    event: EventPart
    run_id: str
    image: ImagePart
    generated: GeneratedPart
    attribution: AttributionPart
    action: Annotated[str, _open("allow", "review", "block")]
    bundle: BundlePart
    cached: bool
    timing_ms: TimingPart
    decided_at: str
    """Time of the verdict, RFC 3339, UTC."""

    def to_json(self) -> bytes:
        """The verdict as JSON, as ``verdict_schema`` describes it."""
        return _VERDICT.dump_json(self)


_VERDICT: Final = TypeAdapter(Verdict)


def verdict_message(verdict: Verdict, *, topic: str, key: bytes | None, traceparent: str | None) -> Message:
    """The verdict as a CloudEvent in binary mode, with the key of the image event, which keeps the order of keys."""
    headers = [
        ("content-type", "application/json"),
        ("ce_specversion", "1.0"),
        ("ce_type", VERDICT_TYPE),
        ("ce_source", "urn:genprint:worker"),
        ("ce_id", verdict.verdict_id),
        ("ce_time", verdict.decided_at),
    ]
    if verdict.event.subject:
        headers.append(("ce_subject", verdict.event.subject))
    if traceparent:
        headers.append(("ce_traceparent", traceparent))
    return Message(topic, key, verdict.to_json(), tuple((n, v.encode()) for n, v in headers))


def timestamp(now_s: float | None = None) -> str:
    """The time as RFC 3339 in UTC with milliseconds; now by default."""
    moment = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def verdict_schema() -> dict[str, Any]:
    """JSON Schema of a verdict; it allows unknown fields, since version 1 may gain some."""
    schema = _VERDICT.json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "genprint:verdict.v1", **schema}

"""What comes in and what goes out: image events, verdicts, deferrals and dead letters, as values and as Kafka records.

CloudEvents 1.0, Kafka protocol binding: binary mode (attributes in ``ce_*`` headers), structured mode
(``application/cloudevents+json``), and plain records without any attribute.
"""

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from worker.broker import Message, Record
from worker.errors import EmptyEvent, EventTooLarge, InvalidEvent, UnknownContentType

VERDICT_TYPE = "genprint.verdict.v1"
_NAMESPACE = uuid.UUID("6f9b8a52-6a0e-5b0a-9d5c-3f1f0a7c2b41")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Our own headers on deferred and dead letters; everything else there is as it came.
ORIGIN, ATTEMPT, NOT_BEFORE = "genprint-origin", "genprint-attempt", "genprint-not-before"
REASON, DETAIL, ENCODING = "genprint-reason", "genprint-detail", "genprint-encoding"
_OURS = frozenset({ORIGIN, ATTEMPT, NOT_BEFORE, REASON, DETAIL, ENCODING})


@dataclass(frozen=True, slots=True)
class InlineImage:
    """The event carries the encoded image itself."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """The event says where the image is; a sha256 is verified, never trusted."""

    uri: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """One request for a verdict.

    ``origin`` is the ``topic/partition/offset`` where the event first came in, kept through retries.
    """

    id: str
    source: str
    subject: str | None
    origin: str
    attempt: int
    attributes: dict[str, str]
    traceparent: str | None
    content: InlineImage | ClaimCheck

    def verdict_id(self, run_id: str) -> str:
        """The same for the same event in the same run: consumers can tell a duplicate by it."""
        return str(uuid.uuid5(_NAMESPACE, json.dumps([self.source, self.id, run_id])))


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where an event stands in its life: its origin and how often it was tried."""

    origin: str
    attempt: int
    not_before_ms: int


def read_delivery(record: Record, retry_topic: str) -> Delivery:
    """Origin and attempt of a record; our own headers count only on our own topic, where nobody else writes."""
    if record.partition.topic != retry_topic:
        return Delivery(record.place, 1, 0)
    ours = {name: value.decode("utf-8", "replace") for name, value in record.headers if name in _OURS and value}
    attempt, not_before = ours.get(ATTEMPT, ""), ours.get(NOT_BEFORE, "")
    return Delivery(
        origin=ours.get(ORIGIN, record.place),
        attempt=int(attempt) if attempt.isdecimal() else 1,
        not_before_ms=int(not_before) if not_before.isdecimal() else 0,
    )


def read_event(record: Record, delivery: Delivery, inline_max_bytes: int, allowed: Collection[str]) -> ImageEvent:
    """Parse a record.

    Raises:
        EmptyEvent, UnknownContentType, InvalidEvent, EventTooLarge: the event's own fault.
    """
    encoding = _encoding(record)
    if record.value is None or encoding.get("null_value"):
        raise EmptyEvent("the record has no value")
    headers = {name.lower(): value for name, value in record.headers if value is not None}
    content_type, value = _media_type(_text(headers, "content-type")), record.value
    attributes = {name[3:]: _text(headers, name) for name in headers if name.startswith("ce_")}
    if content_type == "application/cloudevents+json":
        attributes, content_type, value = _structured(value)
    event_id, source = attributes.get("id"), attributes.get("source")
    if attributes and not (event_id and source):
        raise InvalidEvent("a CloudEvent needs both id and source")
    return ImageEvent(
        id=event_id or delivery.origin,
        source=source or f"urn:kafka:{record.partition.topic}",
        subject=attributes.get("subject"),
        origin=delivery.origin,
        attempt=delivery.attempt,
        attributes={name: attributes[name] for name in allowed if name in attributes},
        traceparent=attributes.get("traceparent") or _text(headers, "traceparent") or None,
        content=_content(content_type, value, inline_max_bytes),
    )


def deferral(
    record: Record, delivery: Delivery, *, topic: str, reason: str, detail: str, not_before_ms: int
) -> Message:
    """The same event again, for later: value, key and headers as they came."""
    ours = {
        ORIGIN: delivery.origin,
        ATTEMPT: str(delivery.attempt + 1),
        NOT_BEFORE: str(not_before_ms),
        REASON: reason,
        DETAIL: detail,
    }
    return _carried(record, topic, ours)


def dead_letter(record: Record, delivery: Delivery, *, topic: str, reason: str, detail: str) -> Message:
    """The event as it came, with what was wrong with it."""
    ours = {ORIGIN: delivery.origin, ATTEMPT: str(delivery.attempt), REASON: reason, DETAIL: detail}
    return _carried(record, topic, ours)


def pointer(message: Message, max_bytes: int) -> Message | None:
    """The same letter without its value, where that is too large to send; None if it was small enough."""
    size = len(message.value) + len(message.key or b"") + sum(len(k) + len(v) + 10 for k, v in message.headers) + 100
    if size <= max_bytes:
        return None
    return without_value(message)


def without_value(message: Message) -> Message:
    """A pointer: only our own headers; the record is still at its origin, as long as that topic keeps it."""
    ours = [(name, value) for name, value in message.headers if name in _OURS and name != ENCODING]
    encoding = json.dumps({"omitted_value_bytes": len(message.value)}).encode()
    return Message(message.topic, None, b"", (*ours, (ENCODING, encoding)))


def _carried(record: Record, topic: str, ours: dict[str, str]) -> Message:
    """Kafka-python sends neither null header values nor a null value without a key: both are encoded."""
    theirs = [(name, value) for name, value in record.headers if name not in _OURS]
    encoding = _encoding(record)
    nulls = [i for i, (_, value) in enumerate(theirs) if value is None] or encoding.get("null_headers", [])
    null_value = record.value is None or bool(encoding.get("null_value"))
    own = [(name, _clean(value).encode()) for name, value in ours.items()]
    if nulls or null_value:
        own.append((ENCODING, json.dumps({"null_headers": nulls, "null_value": null_value}).encode()))
    return Message(topic, record.key, record.value or b"", (*((n, v or b"") for n, v in theirs), *own))


def _encoding(record: Record) -> dict[str, Any]:
    for name, value in record.headers:
        if name == ENCODING and value:
            try:
                found = json.loads(value)
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _content(content_type: str, value: bytes, inline_max_bytes: int) -> InlineImage | ClaimCheck:
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        if len(value) > inline_max_bytes:
            raise EventTooLarge(f"inline image of {len(value)} bytes, the ceiling is {inline_max_bytes}")
        return InlineImage(value)
    if content_type == "application/json":
        return _claim_check(value)
    raise UnknownContentType(f"content type {_clean(content_type)!r} is neither an image nor application/json")


def _claim_check(value: bytes) -> ClaimCheck:
    found = _json_object(value, "claim check")
    uri, sha256 = found.get("uri"), found.get("sha256")
    if not isinstance(uri, str) or not uri:
        raise InvalidEvent("the claim check has no uri")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256.lower())):
        raise InvalidEvent("the claim check's sha256 is not 64 hexadecimal digits")
    return ClaimCheck(uri, sha256.lower() if sha256 else None)


def _structured(value: bytes) -> tuple[dict[str, str], str, bytes]:
    found = _json_object(value, "structured CloudEvent")
    attributes = {k: str(v) for k, v in found.items() if k not in ("data", "data_base64") and v is not None}
    content_type = _media_type(attributes.get("datacontenttype", "application/json"))
    if "data_base64" in found:
        try:
            return attributes, content_type, base64.b64decode(found["data_base64"], validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise InvalidEvent(f"data_base64 is not base64: {error}") from error
    return attributes, content_type, json.dumps(found.get("data")).encode()


def _json_object(value: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"the {what} is not JSON: {_clean(str(error))}") from error
    if not isinstance(found, dict):
        raise InvalidEvent(f"the {what} is not a JSON object")
    return found


def _text(headers: dict[str, bytes], name: str) -> str:
    try:
        return headers.get(name, b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"header {name} is not UTF-8") from error


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _clean(text: str) -> str:
    """One printable line of at most 300 characters, for headers and logs."""
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def public_uri(uri: str) -> str:
    """An address without query, fragment and user: signatures and passwords live there."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


# Verdicts ------------------------------------------------------------------------------------------------------------

Share = Annotated[float, Field(ge=0, le=1)]


def _open(*values: str) -> WithJsonSchema:
    """An enum that may grow: consumers must treat a value they do not know as a case for review."""
    return WithJsonSchema({"type": "string", "examples": list(values)})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EventPart(_Part):
    """Which event this answers."""

    id: str
    source: str
    subject: str | None
    origin: str
    """topic/partition/offset where the event first came in."""
    attempt: int
    """Above 1 the event was deferred, and its verdict may be out of its key's order."""
    attributes: dict[str, str]


class ImagePart(_Part):
    """Which image was judged."""

    sha256: str
    format: str
    width: int
    height: int
    """Stored pixels, before EXIF orientation."""
    bytes: int
    uri: str | None
    """Address of a claim check, without its query."""


class ScorePart(_Part):
    """What one model said; the logit is uncalibrated."""

    model: str
    logit: float
    probability: Share


class GeneratedPart(_Part):
    """Was it generated?"""

    probability: Share | None
    """Calibrated, at the worker's prior; null where no view of the image could be judged."""
    decision: Annotated[Literal["real", "generated", "unsure"], _open("real", "generated", "unsure")]
    reasons: tuple[str, ...]
    """Why unsure, and what else a reviewer should know."""
    scores: tuple[ScorePart, ...]


class CandidatePart(_Part):
    """A label and the distance to the nearest of its templates."""

    label: str
    distance: float


class AttributionPart(_Part):
    """By whom?"""

    source: str | None
    """A label, `unknown` (generated, but no template explains it), or null."""
    conflict: bool
    """Detector and templates contradict each other."""
    distance: float | None
    p_value: Share | None
    """Conformal: share of the nearest label's own images that lie at least as far away."""
    candidates: tuple[CandidatePart, ...]
    library_version: str


class BundlePart(_Part):
    """Which model judged."""

    name: str
    version: str
    digest: str


class TimingPart(_Part):
    """Milliseconds; `queue` and `total` count from the record's timestamp."""

    queue: float
    fetch: float
    decode: float
    inference: float
    total: float


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
    """RFC 3339, UTC."""


def verdict_message(verdict: Verdict, *, topic: str, key: bytes | None, traceparent: str | None) -> Message:
    """As a CloudEvent in binary mode; the key of the image event stays, so its order does too."""
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
    return Message(topic, key, verdict.model_dump_json().encode(), tuple((n, v.encode()) for n, v in headers))


def timestamp(now_s: float | None = None) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def verdict_schema() -> dict[str, Any]:
    """JSON Schema of a verdict; unknown fields are allowed there, since version 1 may gain some."""
    schema = Verdict.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "genprint:verdict.v1", **schema}

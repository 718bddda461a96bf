"""Image events, and the letters that defer or reject them, as Kafka records.

CloudEvents 1.0, Kafka protocol binding: binary mode (attributes in ``ce_*`` headers), structured mode
(``application/cloudevents+json``), and plain records without any attribute.
"""

import base64
import binascii
import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from worker.errors import EmptyEvent, EventTooLarge, InvalidEvent, UnknownContentType
from worker.messages.records import Message, Record

EVENT_TYPE = "genprint.image.v1"

_NAMESPACE = uuid.UUID("6f9b8a52-6a0e-5b0a-9d5c-3f1f0a7c2b41")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SMALL_NUMBER = re.compile(r"[0-9]{1,15}")
_STRUCTURED = "application/cloudevents+json"
_JSON = "application/json"

ENVELOPE_MAX_BYTES = 64 * 1024
"""Most bytes of key and headers together, and of a claim check. CloudEvents promises no more, and a deferral or verdict
that carries them must fit into a message."""
MAX_HEADERS = 256
"""Most headers of an event; each costs more than its bytes."""
HEADER_NAME_MAX_BYTES = 1024
"""Most bytes of a header's name."""
TEXT_MAX_BYTES = 8 * 1024
"""Most bytes of an address, and of an attribute that goes into the verdict."""

_MOST_JSON_PARTS = 8 * 1024
"""Most members and elements in the JSON of an event: each costs far more than its bytes. Base64 has none of the signs
that begin or end them."""
_AMPLIFIED_MAX_BYTES = 1024
"""Most bytes of a dead letter for an event that was sent much smaller than it is (see ``Record.amplified``)."""

# The worker's own headers on deferrals and dead letters; all others there are the event's. Headers with this prefix (in
# upper or lower case) that an uploader sends are dropped, since they could only pretend to be the worker's.
ORIGIN, ATTEMPT, NOT_BEFORE = "genprint-origin", "genprint-attempt", "genprint-not-before"
ORIGIN_TOPIC_ID = "genprint-origin-topic-id"
REASON, DETAIL, ENCODING = "genprint-reason", "genprint-detail", "genprint-encoding"
_PREFIX = "genprint-"

_CARRIED = frozenset({"id", "source", "subject", "traceparent"})


@dataclass(frozen=True, slots=True)
class InlineImage:
    """The event carries the encoded image itself."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """The event gives the address of the image; a sha256 is verified, never trusted."""

    uri: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """One request for a verdict.

    ``origin`` is the ``topic/partition/offset`` where the event first came in, kept through retries, and
    ``origin_topic_id`` tells which topic of that name it was.
    """

    id: str
    source: str
    subject: str | None
    origin: str
    attempt: int
    attributes: dict[str, str]
    traceparent: str | None
    content: InlineImage | ClaimCheck
    origin_topic_id: str | None = None

    def verdict_id(self, run_id: str) -> str:
        """An id that is equal for the same event in the same run, so that consumers can recognise duplicates.

        An event without an id of its own has that of its origin. Since a topic that is made again begins at offset 0
        once more, the topic's id is then a part of it.
        """
        parts = [self.source, self.id, run_id]
        if self.id == self.origin and self.origin_topic_id is not None:
            parts.append(self.origin_topic_id)
        return str(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


@dataclass(frozen=True, slots=True)
class Nulls:
    """Parts that were null in the event, and are empty in its deferral or dead letter.

    kafka-python sends neither a null header nor a null value without a key, so ``ENCODING`` says which parts were null:
    ``headers`` are positions among the event's own headers.
    """

    value: bool = False
    headers: frozenset[int] = frozenset()


_NO_NULLS = Nulls()


@dataclass(frozen=True, slots=True)
class Delivery:
    """The history of an event: its origin, attempts so far, and parts that a deferral could not carry."""

    origin: str
    attempt: int
    not_before_ms: int
    nulls: Nulls = _NO_NULLS
    topic_id: str | None = None
    """The id of the origin's topic; None where the broker gave none."""


def read_delivery(record: Record, retry_topic: str) -> Delivery:
    """Read the worker's own headers, which count on the retry topic alone, since only workers write there."""
    if record.partition.topic != retry_topic:
        return Delivery(record.coordinates, 1, 0, topic_id=record.topic_id)
    own = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers if _is_worker_header(name)}
    return Delivery(
        origin=own.get(ORIGIN) or record.coordinates,
        topic_id=own.get(ORIGIN_TOPIC_ID) if ORIGIN in own else record.topic_id,
        attempt=_small_number(own.get(ATTEMPT, ""), 1),
        not_before_ms=_small_number(own.get(NOT_BEFORE, ""), 0),
        nulls=_nulls(own.get(ENCODING, "")),
    )


def read_event(record: Record, delivery: Delivery, inline_max_bytes: int, allowed: Collection[str]) -> ImageEvent:
    """Parse a record.

    Raises:
        UndecodableRecord, EmptyEvent, UnknownContentType, InvalidEvent, EventTooLarge: the event's own fault.
    """
    if record.unread is not None:
        raise record.unread
    came = _as_it_came(record, delivery)
    if came.value is None:
        raise EmptyEvent("the record has no value")
    _check_envelope(came)
    headers = {name.lower(): value for name, value in came.headers if value is not None}
    content_type = _media_type(_text(headers, "content-type"))
    if content_type == _STRUCTURED:
        attributes, content = _structured(came.value, inline_max_bytes)
    else:
        attributes = {name[3:]: _text(headers, name) for name in headers if name.startswith("ce_")}
        content = _content(content_type, came.value, inline_max_bytes)
    if (attributes or content_type == _STRUCTURED) and not (attributes.get("id") and attributes.get("source")):
        raise InvalidEvent("a CloudEvent needs both id and source")
    attributes.setdefault("traceparent", _text(headers, "traceparent"))
    carried = {name: _carriable(name, text) for name, text in attributes.items() if name in _CARRIED or name in allowed}
    return ImageEvent(
        id=carried.get("id", delivery.origin),
        source=carried.get("source", f"urn:kafka:{delivery.origin.partition('/')[0]}"),
        subject=carried.get("subject") or None,
        origin=delivery.origin,
        attempt=delivery.attempt,
        attributes={name: carried[name] for name in allowed if name in carried},
        traceparent=carried["traceparent"] or None,
        content=content,
        origin_topic_id=delivery.topic_id,
    )


def _check_envelope(came: Record) -> None:
    if len(came.headers) > MAX_HEADERS:
        raise EventTooLarge(f"{len(came.headers)} headers, the ceiling is {MAX_HEADERS}")
    names = [len(name.encode()) for name, _ in came.headers]
    if max(names, default=0) > HEADER_NAME_MAX_BYTES:
        raise EventTooLarge(f"header's name of {max(names)} bytes, the ceiling is {HEADER_NAME_MAX_BYTES}")
    envelope_bytes = len(came.key or b"") + sum(names) + sum(len(value or b"") for _, value in came.headers)
    if envelope_bytes > ENVELOPE_MAX_BYTES:
        raise EventTooLarge(f"key and headers of {envelope_bytes} bytes, the ceiling is {ENVELOPE_MAX_BYTES}")


def deferral(
    record: Record,
    delivery: Delivery,
    *,
    topic: str,
    reason: str,
    detail: str,
    not_before_ms: int,
    counts: bool = True,
) -> Message:
    """The event for the retry topic, with value, key and headers as they came.

    If it does not count as an attempt it is the second one all the same: it was deferred.
    """
    own = {
        ORIGIN: delivery.origin,
        ATTEMPT: str(delivery.attempt + 1 if counts else max(2, delivery.attempt)),
        NOT_BEFORE: str(not_before_ms),
        REASON: reason,
        DETAIL: detail,
    }
    return _carried(record, delivery, topic, own)


def dead_letter(record: Record, delivery: Delivery, *, topic: str, reason: str, detail: str, max_bytes: int) -> Message:
    """The event for the topic of dead letters, as it came, with the reason of its rejection.

    Without its value, as a pointer to its origin, if it would have more than ``max_bytes``, or if the event was sent
    much smaller than it is: a letter must not cost much more than its event did.
    """
    own = {ORIGIN: delivery.origin, ATTEMPT: str(delivery.attempt), REASON: reason, DETAIL: detail}
    letter = _carried(record, delivery, topic, own)
    if record.amplified:
        max_bytes = min(max_bytes, _AMPLIFIED_MAX_BYTES)
    headers_bytes = sum(len(name.encode()) + len(value) + 10 for name, value in letter.headers)
    size = len(letter.value) + len(letter.key or b"") + headers_bytes + 100
    return without_value(letter) if size > max_bytes else letter


def without_value(message: Message) -> Message:
    """The letter as a pointer: only the worker's headers, which name the record's origin."""
    own = [(name, value) for name, value in message.headers if _is_worker_header(name) and name != ENCODING]
    encoding = json.dumps({"omitted_value_bytes": len(message.value)}).encode()
    return Message(message.topic, None, b"", (*own, (ENCODING, encoding)))


def _as_it_came(record: Record, delivery: Delivery) -> Record:
    """The record without the worker's headers, and with its nulls."""
    if delivery.nulls == _NO_NULLS and not any(_is_worker_header(name) for name, _ in record.headers):
        return record
    theirs = [(name, value) for name, value in record.headers if not _is_worker_header(name)]
    headers = tuple((name, None if i in delivery.nulls.headers else value) for i, (name, value) in enumerate(theirs))
    return replace(record, value=None if delivery.nulls.value else record.value, headers=headers)


def _carried(record: Record, delivery: Delivery, topic: str, added: dict[str, str]) -> Message:
    came = _as_it_came(record, delivery)
    if delivery.topic_id is not None:
        added = {**added, ORIGIN_TOPIC_ID: delivery.topic_id}
    own = [(name, _clean(text).encode()) for name, text in added.items()]
    nulls = [i for i, (_, value) in enumerate(came.headers) if value is None]
    if record.unread is not None:
        encoding = {"undecodable": True} | ({"last_offset": record.next_offset - 1} if record.count > 1 else {})
        own.append((ENCODING, json.dumps(encoding).encode()))
    elif nulls or came.value is None:
        own.append((ENCODING, json.dumps({"null_headers": nulls, "null_value": came.value is None}).encode()))
    theirs = [(name, value or b"") for name, value in came.headers]
    return Message(topic, record.key, came.value or b"", (*theirs, *own))


def _is_worker_header(name: str) -> bool:
    return name.lower().startswith(_PREFIX)


def _nulls(encoding: str) -> Nulls:
    try:
        found = json.loads(encoding or "{}")
        return Nulls(bool(found.get("null_value")), frozenset(found.get("null_headers", ())))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return _NO_NULLS  # not written by a worker


def _small_number(text: str, default: int) -> int:
    return int(text) if _SMALL_NUMBER.fullmatch(text) else default


def _content(content_type: str, value: bytes, inline_max_bytes: int) -> InlineImage | ClaimCheck:
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        if len(value) > inline_max_bytes:
            raise EventTooLarge(f"inline image of {len(value)} bytes, the ceiling is {inline_max_bytes}")
        return InlineImage(value)
    if content_type == _JSON:
        return _claim_check(_json_object(value, "claim check", ENVELOPE_MAX_BYTES))
    raise UnknownContentType(f"content type {_clean(content_type)!r} is neither an image nor {_JSON}")


def _claim_check(found: object) -> ClaimCheck:
    if not isinstance(found, dict):
        raise InvalidEvent("the claim check is not a JSON object")
    uri, sha256 = found.get("uri"), found.get("sha256")
    if not isinstance(uri, str) or not uri:
        raise InvalidEvent("the claim check has no uri")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256.lower())):
        raise InvalidEvent("the claim check's sha256 is not 64 hexadecimal digits")
    return ClaimCheck(_carriable("uri", uri), sha256.lower() if sha256 else None)


def _structured(value: bytes, inline_max_bytes: int) -> tuple[dict[str, str], InlineImage | ClaimCheck]:
    max_bytes = inline_max_bytes * 4 // 3 + ENVELOPE_MAX_BYTES  # base64
    found = _json_object(value, "structured CloudEvent", max_bytes)
    data, encoded = found.pop("data", None), found.pop("data_base64", None)
    attributes = {name: _attribute(name, value) for name, value in found.items() if value is not None}
    content_type = _media_type(attributes.get("datacontenttype", _JSON))
    if encoded is not None:
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise InvalidEvent(f"data_base64 is not base64: {error}") from error
        return attributes, _content(content_type, decoded, inline_max_bytes)
    if content_type != _JSON:
        raise InvalidEvent("a structured CloudEvent must carry data that is not JSON in data_base64")
    if len(value) > ENVELOPE_MAX_BYTES:
        raise EventTooLarge(f"claim check of {len(value)} bytes, the ceiling is {ENVELOPE_MAX_BYTES}")
    return attributes, _claim_check(data)


def _attribute(name: str, value: object) -> str:
    """The canonical text of an attribute, as CloudEvents defines it."""
    match value:
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            raise InvalidEvent(f"attribute {_clean(name)!r} is neither text nor a number")


def _carriable(name: str, text: str) -> str:
    """The text, if a verdict can carry it: JSON can escape text that UTF-8 cannot encode (half a surrogate pair)."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{name} is not Unicode text") from error
    if size > TEXT_MAX_BYTES:
        raise InvalidEvent(f"{name} of {size} bytes, the ceiling is {TEXT_MAX_BYTES}")
    return text


def _json_object(value: bytes, what: str, max_bytes: int) -> dict[str, Any]:
    if len(value) > max_bytes:
        raise EventTooLarge(f"{what} of {len(value)} bytes, the ceiling is {max_bytes}")
    if sum(map(value.count, (b",", b"[", b"{"))) > _MOST_JSON_PARTS:
        raise InvalidEvent(f"the {what} has more than {_MOST_JSON_PARTS} members and elements")
    try:
        found = json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"the {what} is not JSON: {_clean(str(error))}") from error
    if not isinstance(found, dict):
        raise InvalidEvent(f"the {what} is not a JSON object")
    return found


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _text(headers: dict[str, bytes], name: str) -> str:
    try:
        return headers.get(name, b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"header {name} is not UTF-8") from error


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _clean(text: str) -> str:
    """The text as one printable line of at most 300 characters, for headers and logs."""
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def public_uri(uri: str) -> str | None:
    """The address without query, fragment and user, which may hold secrets; None if it is no valid address."""
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises where a slash in a password has made one half of it the port
    except ValueError:
        return None
    if not parts.scheme or not uri[len(parts.scheme) :].startswith("://"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

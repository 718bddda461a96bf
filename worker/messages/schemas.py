"""JSON Schemas of image events, verdicts, and the headers of messages that the worker writes.

The files under ``worker/schemas`` are printed from here (``genprint schema``). Version 1 only gains optional
fields and its enums stay open. An event's value may be the image itself, which no JSON Schema describes; its headers
are described for all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from bundle.errors import ImageError
from worker.errors import Disposition, WorkerError
from worker.messages.events import (
    ATTEMPT,
    DETAIL,
    ENCODING,
    ENVELOPE_MAX_BYTES,
    EVENT_TYPE,
    NOT_BEFORE,
    ORIGIN,
    ORIGIN_TOPIC_ID,
    REASON,
    TEXT_MAX_BYTES,
)
from worker.messages.verdict import VERDICT_TYPE, verdict_schema

Schema = dict[str, Any]

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def image_event_schema() -> Schema:
    """Schema of events' JSON values (claim check, structured CloudEvent) and, in ``$defs/Headers``, of headers."""
    return {
        "$schema": _DRAFT,
        "$id": "genprint:image_event.v1",
        "$defs": {"ClaimCheck": _claim_check(), "Structured": _structured(), "Headers": _event_headers()},
        "title": "ImageEvent",
        "description": (
            "The value of an image event that is JSON: a claim check (content-type application/json) or a CloudEvent "
            "in structured mode (application/cloudevents+json). An event of content-type image/* or "
            f"application/octet-stream carries the encoded image itself. {ENVELOPE_MAX_BYTES} bytes are the most that "
            "key and headers may have together, and the most of a claim check."
        ),
        "anyOf": [{"$ref": "#/$defs/ClaimCheck"}, {"$ref": "#/$defs/Structured"}],
    }


def headers_schema() -> Schema:
    """Schema of the headers of verdicts, deferred events and dead letters, by name; values are UTF-8 text."""
    return {
        "$schema": _DRAFT,
        "$id": "genprint:headers.v1",
        "$defs": {
            "VerdictHeaders": _verdict_headers(),
            "DeferredHeaders": _letter_headers("DeferredHeaders", Disposition.DEFER),
            "DeadLetterHeaders": _letter_headers("DeadLetterHeaders", Disposition.REJECT),
        },
        "title": "Headers",
        "description": "Kafka headers that the worker writes, as text; those that an event brought stay beside them.",
    }


SCHEMAS: Final[Mapping[str, Callable[[], Schema]]] = {
    "verdict.v1": verdict_schema,
    "image_event.v1": image_event_schema,
    "headers.v1": headers_schema,
}
"""The functions that make schemas, by the name of the schema's file."""


def reasons(disposition: Disposition) -> list[str]:
    """Every reason that errors of this disposition have today, sorted."""
    found = {kind.reason for kind in _subclasses(ImageError)} if disposition is Disposition.REJECT else set()
    found |= {kind.reason for kind in _subclasses(WorkerError) if kind.disposition is disposition and _has_own(kind)}
    return sorted(found)


def _subclasses(kind: type[Any]) -> set[type[Any]]:
    below = set(kind.__subclasses__())
    return below.union(*(_subclasses(other) for other in below))


def _has_own(kind: type[Any]) -> bool:
    return "reason" in vars(kind)


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _claim_check() -> Schema:
    return {
        "title": "ClaimCheck",
        "description": "The address of the image.",
        "type": "object",
        "properties": {
            "uri": _text(
                "Address under one of the worker's `fetch.sources`; at most 8 KiB of UTF-8.",
                minLength=1,
                maxLength=TEXT_MAX_BYTES,
                pattern="^(https?|s3|gs|az|file)://",
            ),
            "sha256": {
                "type": ["string", "null"],
                "description": "Hexadecimal sha256 of the image; verified against the bytes that are fetched.",
                "pattern": "^[0-9A-Fa-f]{64}$",
            },
        },
        "required": ["uri"],
    }


def _structured() -> Schema:
    image = {
        "required": ["data_base64", "datacontenttype"],
        "properties": {"datacontenttype": {"pattern": "^(image/|application/octet-stream)"}},
        "not": {"required": ["data"]},
    }
    claim_check = {
        "required": ["data"],
        "properties": {"datacontenttype": {"pattern": "^application/json *(;|$)"}},
        "not": {"required": ["data_base64"]},
    }
    return {
        "title": "Structured",
        "description": "A CloudEvent in structured mode; extension attributes stand beside the named ones.",
        "type": "object",
        "properties": {
            "specversion": _text("Version of CloudEvents.", examples=["1.0"]),
            "type": _text("What happened.", examples=[EVENT_TYPE]),
            "source": _text("Source; with `id` the identity of the event.", minLength=1, maxLength=TEXT_MAX_BYTES),
            "id": _text("Identifier, unique within `source`.", minLength=1, maxLength=TEXT_MAX_BYTES),
            "subject": _text("Names the image.", maxLength=TEXT_MAX_BYTES),
            "time": _text("Time of the event (RFC 3339)."),
            "datacontenttype": _text("Content type of the data; application/json if absent."),
            "data": {"$ref": "#/$defs/ClaimCheck"},
            "data_base64": _text("The encoded image.", contentEncoding="base64", pattern=_BASE64),
        },
        "required": ["specversion", "type", "source", "id"],
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        "oneOf": [claim_check, image],
    }


def _event_headers() -> Schema:
    """Attributes of CloudEvents, all of them or none: the identity of a plain record is its origin."""
    return {
        "title": "Headers",
        "description": (
            "Headers of an event. Either none of them begins with ce_ (its identity is then the record's origin), or "
            "it is a CloudEvent in binary mode; extension attributes are further ce_ headers."
        ),
        "type": "object",
        "properties": {
            "content-type": _text(
                "Content type of the value; parameters are ignored.",
                pattern="^(image/[^; ]+|application/(octet-stream|json|cloudevents\\+json)) *(;|$)",
                examples=["image/jpeg", "application/octet-stream", "application/json", "application/cloudevents+json"],
            ),
            "ce_specversion": _text("Version of CloudEvents.", examples=["1.0"]),
            "ce_type": _text("What happened.", examples=[EVENT_TYPE]),
            "ce_source": _text(
                "Source of the event; with `ce_id` its identity.", minLength=1, maxLength=TEXT_MAX_BYTES
            ),
            "ce_id": _text(
                "Identifier of the event, unique within `ce_source`.", minLength=1, maxLength=TEXT_MAX_BYTES
            ),
            "ce_subject": _text("Names the image.", maxLength=TEXT_MAX_BYTES),
            "ce_time": _text("Time of the event (RFC 3339)."),
            "ce_tenant": _text("Tenant, for fair sharing (`fairness.attribute`).", maxLength=TEXT_MAX_BYTES),
            "ce_traceparent": _text("W3C trace context, carried to the verdict.", maxLength=TEXT_MAX_BYTES),
            "traceparent": _text("W3C trace context without the prefix.", maxLength=TEXT_MAX_BYTES),
        },
        "required": ["content-type"],
        "if": {"propertyNames": {"not": {"pattern": "^ce_"}}},
        "else": {"required": ["ce_specversion", "ce_type", "ce_source", "ce_id"]},
    }


def _verdict_headers() -> Schema:
    return {
        "title": "VerdictHeaders",
        "description": "A CloudEvent in binary mode. The key is the image event's.",
        "type": "object",
        "properties": {
            "content-type": {"type": "string", "const": "application/json"},
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_type": {"type": "string", "const": VERDICT_TYPE},
            "ce_source": _text("Source of the verdict.", examples=["urn:genprint:worker"]),
            "ce_id": _text("The verdict_id."),
            "ce_time": _text("The verdict's decided_at."),
            "ce_subject": _text("The event's subject, where it has one."),
            "ce_traceparent": _text("The event's trace context, where it has one."),
        },
        "required": ["content-type", "ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time"],
    }


def _letter_headers(title: str, disposition: Disposition) -> Schema:
    deferred = disposition is Disposition.DEFER
    number = {"pattern": "^[0-9]{1,15}$"}
    properties = {
        ORIGIN: _text("topic/partition/offset where the event first came in.", pattern="^.+/[0-9]+/[0-9]+$"),
        ORIGIN_TOPIC_ID: _text(
            "Which topic of the origin's name it was, in hexadecimal; absent where the broker gives topics no ids."
        ),
        ATTEMPT: _text("Which attempt this is." if deferred else "Which attempt was the last.", **number),
        REASON: _text("Reason as a short label; later versions may add labels.", examples=reasons(disposition)),
        DETAIL: _text("One line of explanation for people."),
        ENCODING: _text(
            "What could not be carried as it came; absent where value and headers are the event's own.",
            contentMediaType="application/json",
            contentSchema=_encoding(),
        ),
    }
    if deferred:
        properties[NOT_BEFORE] = _text("Unix milliseconds before which it is not tried again.", **number)
    return {
        "title": title,
        "description": "Headers added to the event's own; its key and value are as they came.",
        "type": "object",
        "properties": properties,
        "required": sorted(properties.keys() - {ENCODING, ORIGIN_TOPIC_ID}),
    }


def _encoding() -> Schema:
    return {
        "title": "Encoding",
        "type": "object",
        "properties": {
            "null_value": {"type": "boolean", "description": "The value was null, not empty."},
            "null_headers": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "Positions, among the event's own headers, of those that were null.",
            },
            "omitted_value_bytes": {
                "type": "integer",
                "description": "The value was too large to carry; it is still at the origin.",
            },
            "undecodable": {
                "type": "boolean",
                "description": "The record was not read: only its origin is known.",
            },
            "last_offset": {
                "type": "integer",
                "description": "The letter answers for all offsets from its origin's to this one, as for a batch that "
                "cannot be listed record by record.",
            },
        },
    }

"""Image events in every form, hostile ones included; deferrals and dead letters byte for byte; addresses."""

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worker
from tests.worker.messages.verdicts import make_verdict
from worker.errors import EmptyEvent, EventError, EventTooLarge, InvalidEvent, UndecodableRecord, UnknownContentType
from worker.messages.events import (
    ATTEMPT,
    DETAIL,
    ENCODING,
    ENVELOPE_MAX_BYTES,
    HEADER_NAME_MAX_BYTES,
    MAX_HEADERS,
    NOT_BEFORE,
    ORIGIN,
    REASON,
    TEXT_MAX_BYTES,
    ClaimCheck,
    Delivery,
    ImageEvent,
    InlineImage,
    dead_letter,
    deferral,
    public_uri,
    read_delivery,
    read_event,
    without_value,
)
from worker.messages.records import Headers, Message, Partition, Record
from worker.messages.verdict import timestamp, verdict_message, verdict_schema

MAX = 100_000
SCHEMA = Path(worker.__file__).parent / "schemas" / "verdict.v1.json"
CE: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"urn:a"))
IMAGE: Headers = (("content-type", b"image/png"),)
JSON: Headers = (("content-type", b"application/json"),)
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def record(value: bytes | None, headers: Headers = (), topic: str = "images", key: bytes | None = b"k") -> Record:
    return Record(Partition(topic, 1), 5, 0, 1000, key, value, headers)


def read(value: bytes | None, headers: Headers = (), key: bytes | None = b"k") -> ImageEvent:
    came = record(value, headers, key=key)
    return read_event(came, read_delivery(came, "images.retry"), MAX, ("tenant",))


def structured(**fields: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "7", "source": "urn:a", **fields}).encode()


def returned(message: Message, topic: str = "images.retry") -> Record:
    """The message as the record that a consumer reads."""
    return Record(Partition(topic, 0), 99, 0, 2000, message.key, message.value, message.headers)


def test_binary_mode() -> None:
    more: Headers = (
        ("ce_subject", "ü.png".encode()),
        ("ce_tenant", b"t"),
        ("ce_other", b"o"),
        ("traceparent", b"00-1"),
    )
    event = read(b"\x89PNG", (*CE, *IMAGE, *more))
    assert event == ImageEvent("7", "urn:a", "ü.png", "images/1/5", 1, {"tenant": "t"}, "00-1", InlineImage(b"\x89PNG"))


@pytest.mark.parametrize(
    "content_type", ["image/png", "IMAGE/PNG", " image/jpeg ; q=1", "application/octet-stream;charset=x", "image/x-odd"]
)
def test_image_content_types(content_type: str) -> None:
    assert read(b"x", (("Content-Type", content_type.encode()),)).content == InlineImage(b"x")


def test_names_of_headers_in_upper_case() -> None:
    event = read(
        b"x", (("CONTENT-TYPE", b"image/png"), ("CE_ID", b"7"), ("Ce_Source", b"urn:a"), ("TraceParent", b"t"))
    )
    assert (event.id, event.source, event.traceparent) == ("7", "urn:a", "t")


def test_a_plain_record_is_known_by_its_origin_at_every_attempt() -> None:
    first = read(b'{"uri": "https://a/b"}', JSON)
    assert (first.id, first.source, first.subject) == ("images/1/5", "urn:kafka:images", None)
    came = record(b'{"uri": "https://a/b"}', JSON)
    delivery = read_delivery(came, "images.retry")
    again = returned(deferral(came, delivery, topic="images.retry", reason="r", detail="d", not_before_ms=1))
    second = read_event(again, read_delivery(again, "images.retry"), MAX, ())
    assert (second.id, second.source, second.attempt) == (first.id, first.source, 2)
    assert second.verdict_id("live") == first.verdict_id("live")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (structured(data={"uri": "s3://b/k"}), ClaimCheck("s3://b/k", None)),
        (structured(datacontenttype="application/json; v=1", data={"uri": "u"}), ClaimCheck("u", None)),
        (structured(datacontenttype="image/png", data_base64="AAH/"), InlineImage(b"\x00\x01\xff")),
        (structured(data_base64=base64.b64encode(b'{"uri": "u"}').decode()), ClaimCheck("u", None)),
        (structured(data={"uri": "u"}, data_base64=None, time=None), ClaimCheck("u", None)),
        (structured(data={"uri": "u"}).decode().encode("utf-16"), ClaimCheck("u", None)),
    ],
)
def test_structured_mode(value: bytes, content: object) -> None:
    event = read(value, STRUCTURED)
    assert (event.id, event.source, event.content) == ("7", "urn:a", content)


def test_attributes_of_structured_mode_have_their_canonical_text() -> None:
    assert read(structured(data={"uri": "u"}, tenant=True), STRUCTURED).attributes == {"tenant": "true"}
    assert read(structured(data={"uri": "u"}, tenant=12), STRUCTURED).attributes == {"tenant": "12"}


def test_a_declared_sha256_may_be_in_upper_case() -> None:
    assert read(json.dumps({"uri": "u", "sha256": "AB" * 32}).encode(), JSON).content == ClaimCheck("u", "ab" * 32)


NESTED = b'{"a":' * 100_000
BAD: dict[str, tuple[type[EventError], bytes | None, Headers]] = {
    "tombstone": (EmptyEvent, None, IMAGE),
    "no content type": (UnknownContentType, b"x", ()),
    "null content type": (UnknownContentType, b"x", (("content-type", None),)),
    "text": (UnknownContentType, b"x", (("content-type", b"text/html"),)),
    "batch": (UnknownContentType, b"[]", (("content-type", b"application/cloudevents-batch+json"),)),
    "content type not UTF-8": (InvalidEvent, b"x", (("content-type", b"\xff"),)),
    "attribute not UTF-8": (InvalidEvent, b"x", (*IMAGE, *CE, ("ce_tenant", b"\xff"))),
    "id alone": (InvalidEvent, b"x", (*IMAGE, ("ce_id", b"7"))),
    "source alone": (InvalidEvent, b"x", (*IMAGE, ("ce_source", b"7"))),
    "empty id": (InvalidEvent, b"x", (*IMAGE, ("ce_id", b""), ("ce_source", b"a"))),
    "neither, but an attribute": (InvalidEvent, b"x", (*IMAGE, ("ce_tenant", b"t"))),
    "not JSON": (InvalidEvent, b"{", JSON),
    "not UTF-8": (InvalidEvent, b"\xff\xfe{", JSON),
    "list": (InvalidEvent, b"[]", JSON),
    "no uri": (InvalidEvent, b"{}", JSON),
    "empty uri": (InvalidEvent, b'{"uri": ""}', JSON),
    "number as uri": (InvalidEvent, b'{"uri": 7}', JSON),
    "not a number": (InvalidEvent, b'{"uri": "u", "x": NaN}', JSON),
    "infinity": (InvalidEvent, b'{"uri": "u", "x": -Infinity}', JSON),
    "half a surrogate pair": (InvalidEvent, b'{"uri": "file:///\\udc80"}', JSON),
    "long uri": (InvalidEvent, json.dumps({"uri": "u" * (TEXT_MAX_BYTES + 1)}).encode(), JSON),
    "sha256 too short": (InvalidEvent, b'{"uri": "u", "sha256": "ab"}', JSON),
    "sha256 a number": (InvalidEvent, b'{"uri": "u", "sha256": 5}', JSON),
    "nested": (InvalidEvent, NESTED[:60_000], JSON),
    "nested in structured": (InvalidEvent, NESTED[:60_000], STRUCTURED),
    "long number": (InvalidEvent, b'{"uri": "u", "n": ' + b"9" * 5000 + b"}", JSON),
    "large claim check": (EventTooLarge, json.dumps({"uri": "u", "x": "x" * ENVELOPE_MAX_BYTES}).encode(), JSON),
    "large image": (EventTooLarge, bytes(MAX + 1), IMAGE),
    "large structured image": (
        EventTooLarge,
        structured(datacontenttype="image/png", data_base64=base64.b64encode(bytes(MAX + 1)).decode()),
        STRUCTURED,
    ),
    "large structured claim check": (
        EventTooLarge,
        structured(data={"uri": "u"}, x="x" * ENVELOPE_MAX_BYTES),
        STRUCTURED,
    ),
    "large structured event": (EventTooLarge, structured(x="x" * 2 * MAX), STRUCTURED),
    "large headers": (EventTooLarge, b"x", (*IMAGE, ("x", bytes(ENVELOPE_MAX_BYTES)))),
    "long header name": (EventTooLarge, b"x", (*IMAGE, ("é" * (ENVELOPE_MAX_BYTES // 2), None))),
    "long subject": (InvalidEvent, b"x", (*IMAGE, *CE, ("ce_subject", b"x" * (TEXT_MAX_BYTES + 1)))),
    "long traceparent": (InvalidEvent, b"x", (*IMAGE, ("traceparent", b"x" * (TEXT_MAX_BYTES + 1)))),
    "structured without attributes": (InvalidEvent, b'{"data": {"uri": "u"}}', STRUCTURED),
    "structured id is a list": (InvalidEvent, structured(id=[1], data={"uri": "u"}), STRUCTURED),
    "structured id is half a surrogate": (
        InvalidEvent,
        b'{"id": "\\ud800", "source": "a", "data": {"uri": "u"}}',
        STRUCTURED,
    ),
    "structured without data": (InvalidEvent, structured(), STRUCTURED),
    "structured data is text": (InvalidEvent, structured(data="x"), STRUCTURED),
    "structured image not in base64": (InvalidEvent, structured(datacontenttype="image/png", data="x"), STRUCTURED),
    "structured bad base64": (InvalidEvent, structured(data_base64="*"), STRUCTURED),
    "structured base64 is a number": (InvalidEvent, structured(data_base64=5), STRUCTURED),
    "structured unknown content": (UnknownContentType, structured(datacontenttype="a/b", data_base64=""), STRUCTURED),
    "structured list": (InvalidEvent, b"[1]", STRUCTURED),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_event_is_rejected_with_a_short_printable_reason(what: str) -> None:
    error, value, headers = BAD[what]
    with pytest.raises(error) as caught:
        read(value, headers)
    assert type(caught.value) is error
    letter = dead_letter(
        record(value, headers), Delivery("o/0/0", 1, 0), topic="d", reason="r", detail=str(caught.value), max_bytes=MAX
    )
    detail = dict(letter.headers)[DETAIL].decode()
    assert detail.isprintable()
    assert 0 < len(detail) <= 300


def test_a_large_key_is_rejected() -> None:
    with pytest.raises(EventTooLarge):
        read(b"x", IMAGE, key=bytes(ENVELOPE_MAX_BYTES))


def test_nesting_just_below_the_parser_s_limit_is_read_or_rejected() -> None:
    for depth in range(850, 1000):
        value = structured(data={"uri": "u", "x": 0}).replace(b"0}", b'{"a":' * depth + b"0" + b"}" * depth + b"}")
        try:
            assert read(value, STRUCTURED).content == ClaimCheck("u", None)
        except InvalidEvent:
            return
    pytest.fail("no depth was refused")


@given(
    st.binary(max_size=200), st.lists(st.tuples(st.text(max_size=12), st.none() | st.binary(max_size=30)), max_size=4)
)
def test_no_record_raises_anything_but_an_event_error(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    for kind in (JSON, STRUCTURED, IMAGE, ()):
        try:
            read(value, (*kind, *headers))
        except EventError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "source", "subject", "data", "data_base64", "datacontenttype", "tenant", "uri", "sha256")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6))
def test_no_json_raises_anything_but_an_event_error(fields: dict[str, Any]) -> None:
    for kind in (JSON, STRUCTURED):
        try:
            event = read(json.dumps(fields).encode(), kind)
        except EventError:
            continue
        json.dumps([event.id, event.source, event.subject, event.attributes], ensure_ascii=False).encode()


# Deferrals and dead letters ------------------------------------------------------------------------------------------

ODD: Headers = (
    ("content-type", b"image/png"),
    ("null", None),
    ("not utf-8", b"\xff\x00"),
    ("twice", b"1"),
    ("twice", b""),
    ("ünïcode", b"x"),
    ("ce_foo", None),
)


def restored(letter: Message) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of the event, restored by the documented encoding."""
    headers = dict(letter.headers)
    encoding = json.loads(headers.get(ENCODING, b"{}"))
    theirs = [(name, value) for name, value in letter.headers if not name.startswith("genprint-")]
    nulls = encoding.get("null_headers", [])
    value = None if encoding.get("null_value") else letter.value
    return letter.key, value, tuple((n, None if i in nulls else v) for i, (n, v) in enumerate(theirs))


def defer(came: Record, detail: str = "slow") -> Record:
    delivery = read_delivery(came, "images.retry")
    letter = deferral(came, delivery, topic="images.retry", reason="r", detail=detail, not_before_ms=123)
    assert letter.topic == "images.retry"
    return returned(letter)


def bury(came: Record, max_bytes: int = 10 * MAX) -> Message:
    delivery = read_delivery(came, "images.retry")
    return dead_letter(
        came, delivery, topic="images.dead", reason="empty", detail="what\nwas wrong", max_bytes=max_bytes
    )


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("value", [None, b"", b"\x00\xff"])
@pytest.mark.parametrize("key", [None, b"", b"\xff"])
@pytest.mark.parametrize("headers", [(), ODD])
def test_a_letter_keeps_the_event_byte_for_byte(
    times: int, value: bytes | None, key: bytes | None, headers: Headers
) -> None:
    came = record(value, headers, key=key)
    for _ in range(times):
        came = defer(came)
    letter = bury(came)
    assert restored(letter) == (key, value, headers)
    ours = dict(letter.headers)
    assert (ours[ORIGIN], ours[ATTEMPT]) == (b"images/1/5", str(times + 1).encode())
    assert (ours[REASON], ours[DETAIL]) == (b"empty", b"what was wrong")
    assert NOT_BEFORE not in ours


@pytest.mark.parametrize("headers", [ODD, (*ODD, *CE)])
def test_a_deferred_event_reads_as_it_did_at_first(headers: Headers) -> None:
    came = record(b"x", headers)
    first = read_event(came, read_delivery(came, "images.retry"), MAX, ())
    again = defer(defer(came))
    delivery = read_delivery(again, "images.retry")
    second = read_event(again, delivery, MAX, ())
    assert (delivery.attempt, delivery.not_before_ms, second.attempt) == (3, 123, 3)
    assert (second.id, second.subject, second.content) == (first.id, first.subject, first.content)


def test_a_deferred_tombstone_stays_one() -> None:
    again = defer(record(None, IMAGE))
    with pytest.raises(EmptyEvent):
        read_event(again, read_delivery(again, "images.retry"), MAX, ())


FORGED: Headers = (
    (ORIGIN, b"images/0/0"),
    (ATTEMPT, b"99"),
    (NOT_BEFORE, b"99999999999999"),
    (REASON, b"forged"),
    ("GenPrint-Reason", b"forged"),
    ("genprint-later", b"forged"),
    (ENCODING, b'{"null_value": true, "null_headers": [0]}'),
)


def test_our_headers_on_the_images_topic_are_neither_believed_nor_kept() -> None:
    came = record(b"x", (*FORGED, *IMAGE, ("own", b"1")))
    delivery = read_delivery(came, "images.retry")
    assert delivery == Delivery("images/1/5", 1, 0)
    assert read_event(came, delivery, MAX, ()).content == InlineImage(b"x")
    for letter in (bury(came), bury(defer(came))):
        assert restored(letter) == (b"k", b"x", (*IMAGE, ("own", b"1")))
        assert b"forged" not in dict(letter.headers).values()
        assert dict(letter.headers)[ORIGIN] == b"images/1/5"
        assert len(letter.headers) == len({name.lower() for name, _ in letter.headers})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ATTEMPT, b"9" * 5000),
        (ATTEMPT, "²".encode()),
        (ATTEMPT, b"-1"),
        (NOT_BEFORE, b"soon"),
        (ORIGIN, b""),
        (ENCODING, b"\xff"),
        (ENCODING, b"[]"),
        (ENCODING, b'{"null_headers": [[]]}'),
        (ENCODING, b'{"null_headers": 5}'),
        (ENCODING, NESTED),
        (ENCODING, None),
    ],
)
def test_garbage_on_the_retry_topic_counts_as_nothing(name: str, value: bytes | None) -> None:
    assert read_delivery(record(b"x", ((name, value),), "images.retry"), "images.retry") == Delivery(
        "images.retry/1/5", 1, 0
    )


def test_a_letter_too_large_becomes_a_pointer_without_value_key_and_their_headers() -> None:
    came = record(bytes(1000), (("é" * 200, None), *IMAGE), key=bytes(50))
    assert bury(came, 5000).value == bytes(1000)
    found = bury(came, 1500)
    assert found == without_value(bury(came))
    assert (found.key, found.value) == (None, b"")
    ours = dict(found.headers)
    assert ours.keys() == {ORIGIN, ATTEMPT, REASON, DETAIL, ENCODING}
    assert json.loads(ours[ENCODING]) == {"omitted_value_bytes": 1000}


def test_the_size_of_a_letter_counts_bytes_and_not_characters() -> None:
    assert ENCODING in dict(bury(record(b"", (("é" * 1000, b""),)), 1500).headers)


def test_a_letter_costs_no_more_than_its_event_did_when_that_was_sent_packed() -> None:
    came = record(bytes(10_000), IMAGE)
    assert bury(came).value == came.value
    assert bury(replace(came, amplified=True)).value == b""
    small = replace(record(b"{}", IMAGE), amplified=True)
    assert bury(small).value == b"{}"


# Addresses and verdicts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://user:secret@h.example:8443/a/b.png?sig=secret#secret", "https://h.example:8443/a/b.png"),
        ("https://a@secret@h/x", "https://h/x"),
        ("s3://bucket/key?secret", "s3://bucket/key"),
        ("file:///data/a%20b.png", "file:///data/a%20b.png"),
        ("https://[::1]/x?secret", "https://[::1]/x"),
        ("http://[::1", None),
        ("https://user:se/cret@h/x", None),
        ("https:user:secret@h/x", None),
        ("https://user:secret\uff03@h/x", None),
        ("//user:secret@h/x", None),
        ("secret", None),
        ("", None),
    ],
)
def test_public_uri_has_no_secrets(uri: str, public: str | None) -> None:
    assert public_uri(uri) == public


@given(st.text() | st.text().map(lambda text: f"https://{text}"))
def test_public_uri_never_raises(uri: str) -> None:
    assert "?" not in (public_uri(uri) or "")


def test_the_committed_schema_is_the_one_that_the_code_gives() -> None:
    assert json.loads(SCHEMA.read_text()) == verdict_schema(), "write it anew: python -m worker schema"


def test_verdicts_follow_the_schema_and_it_leaves_room_to_grow() -> None:
    schema = verdict_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    verdict = json.loads(make_verdict().to_json())
    validator.validate(verdict)
    grown = verdict | {"provenance": {"x": 1}, "action": "quarantine"}
    grown["generated"] |= {"decision": "manipulated", "new": 1}
    validator.validate(grown)
    for path in (("generated", "probability"), ("attribution", "p_value")):
        wrong = json.loads(json.dumps(verdict))
        wrong[path[0]][path[1]] = 1.5
        assert not validator.is_valid(wrong)
    for name in verdict:
        assert not validator.is_valid({key: value for key, value in verdict.items() if key != name}), name


def test_a_verdict_is_a_cloud_event_under_the_key_of_its_image() -> None:
    verdict = make_verdict(subject="ü.png")
    message = verdict_message(verdict, topic="verdicts", key=b"\xff", traceparent="00-1")
    assert (message.topic, message.key) == ("verdicts", b"\xff")
    assert json.loads(message.value)["event"]["subject"] == "ü.png"
    headers = dict(message.headers)
    assert {"ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time", "content-type"} <= headers.keys()
    assert headers["ce_id"] == verdict.verdict_id.encode()
    assert (headers["ce_subject"], headers["ce_traceparent"]) == ("ü.png".encode(), b"00-1")
    bare = dict(verdict_message(make_verdict(subject=None), topic="v", key=None, traceparent=None).headers)
    assert not {"ce_subject", "ce_traceparent"} & bare.keys()


def test_a_verdict_of_the_longest_event_stays_small() -> None:
    text = "\x01" * TEXT_MAX_BYTES  # JSON makes six bytes of each
    more: Headers = (("ce_tenant", text.encode()), ("ce_subject", text.encode()), ("ce_id", text.encode()))
    event = read(b"x", (*IMAGE, ("ce_source", b"a"), *more))
    verdict = make_verdict(subject=event.subject, event_id=event.id, attributes=event.attributes)
    message = verdict_message(verdict, topic="v", key=None, traceparent=event.traceparent)
    assert message.held_bytes < 500_000


def test_a_verdict_id_is_stable_across_releases_and_differs_by_each_of_its_parts() -> None:
    event = read(b"x", (*CE, *IMAGE))
    assert event.verdict_id("live") == "23ae102c-c6c8-5425-a6f8-46381b4e61db"
    others = [
        read(b"x", (*IMAGE, ("ce_id", b"8"), ("ce_source", b"urn:a"))),
        read(b"x", (*IMAGE, ("ce_id", b"7"), ("ce_source", b"urn:b"))),
    ]
    assert len({event.verdict_id("live"), event.verdict_id("x"), *(o.verdict_id("live") for o in others)}) == 4


def test_an_event_without_an_id_of_its_own_is_another_one_in_a_topic_that_was_made_again() -> None:
    def answered(headers: Headers, topic_id: str | None) -> ImageEvent:
        came = replace(record(b"x", headers), topic_id=topic_id)
        first = read_delivery(came, "images.retry")
        deferred = deferral(came, first, topic="images.retry", reason="r", detail="d", not_before_ms=1)
        again = replace(returned(deferred), topic_id="the retry topic's own")
        events = [read_event(r, read_delivery(r, "images.retry"), MAX, ()) for r in (came, again)]
        assert events[0].verdict_id("live") == events[1].verdict_id("live")
        assert events[0].origin_topic_id == topic_id
        return events[1]

    plain = [answered(IMAGE, topic_id) for topic_id in ("a" * 32, "b" * 32, None)]
    assert {event.origin for event in plain} == {"images/1/5"}
    assert [event.origin_topic_id for event in plain][:2] == ["a" * 32, "b" * 32]
    assert len({event.verdict_id("live") for event in plain}) == 3
    named = [answered((*CE, *IMAGE), topic_id) for topic_id in ("a" * 32, "b" * 32, None)]
    assert len({event.verdict_id("live") for event in named}) == 1


def test_timestamps_are_rfc_3339() -> None:
    assert timestamp(0.0625) == "1970-01-01T00:00:00.062Z"


def test_a_record_that_nobody_can_read_is_rejected_by_a_pointer() -> None:
    came = replace(record(None), key=None, unread=UndecodableRecord("its lengths do not fit"))
    delivery = read_delivery(came, "images.retry")
    with pytest.raises(UndecodableRecord, match="its lengths do not fit"):
        read_event(came, delivery, MAX, ())
    letter = dead_letter(
        came, delivery, topic="images.dead", reason=UndecodableRecord.reason, detail="x", max_bytes=MAX
    )
    headers = dict(letter.headers)
    assert letter.value == b""
    assert headers[ORIGIN] == b"images/1/5"
    assert json.loads(headers[ENCODING]) == {"undecodable": True}
    whole = replace(came, count=2**20 + 1)
    letter = dead_letter(
        whole, delivery, topic="images.dead", reason=UndecodableRecord.reason, detail="x", max_bytes=MAX
    )
    headers = dict(letter.headers)
    assert headers[ORIGIN] == b"images/1/5"
    assert json.loads(headers[ENCODING]) == {"undecodable": True, "last_offset": 5 + 2**20}
    assert whole.next_offset == 5 + 2**20 + 1


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (tuple((f"x{n}", b"") for n in range(MAX_HEADERS)), f"{MAX_HEADERS + 1} headers"),
        ((("x" * (HEADER_NAME_MAX_BYTES + 1), b""),), "header's name of 1025 bytes"),
        ((("x", bytes(ENVELOPE_MAX_BYTES)),), "key and headers of"),
    ],
)
def test_ceilings_of_headers(headers: Headers, why: str) -> None:
    with pytest.raises(EventTooLarge, match=why):
        read(b"x", (*IMAGE, *headers))
    assert read(b"x", (*IMAGE, *headers[1:])).content == InlineImage(b"x")


@pytest.mark.parametrize("part", [b"[]", b"{}", b"1", b'{"a":1}'])
def test_an_envelope_of_many_parts_is_refused_before_it_is_taken_apart(part: bytes) -> None:
    value = b'{"id":"1","source":"s","x":[' + b",".join([part] * (8_000_000 // (len(part) + 1))) + b"]}"
    began = time.process_time()
    with pytest.raises(InvalidEvent, match="more than 8192"):
        read_event(record(value, STRUCTURED), Delivery("o/0/0", 1, 0), 8 * 2**20, ())
    assert time.process_time() - began < 0.2  # apart it took seconds

"""Schemas: the files are those that the code makes, the worker follows them, and no change breaks their users.

``published`` holds each schema as its users have it. A later minor version may update it, once this test passes.
"""

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import worker
from tests.worker.messages.schema_rules import Side, breaks
from tests.worker.messages.verdicts import make_verdict
from worker.__main__ import app
from worker.errors import Disposition, EventError
from worker.messages.events import dead_letter, deferral, read_delivery, read_event, without_value
from worker.messages.records import Message, Partition, Record
from worker.messages.schemas import SCHEMAS, reasons
from worker.messages.verdict import verdict_message
from worker.settings import Settings
from worker.tools.produce import image_events

ROOT = Path(__file__).resolve().parents[3]
FILES = Path(worker.__file__).parent / "schemas"
PUBLISHED = Path(__file__).with_name("published")
SIDES: dict[str, Side] = {"verdict.v1": "written", "image_event.v1": "read", "headers.v1": "written"}

Change = Callable[[dict[str, Any]], object]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def validator(name: str, part: str | None = None) -> jsonschema.Draft202012Validator:
    schema = SCHEMAS[name]()
    return jsonschema.Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{part}"} if part else schema)


# The files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_what_the_command_prints(name: str) -> None:
    printed = CliRunner().invoke(app, ["schema", name])
    assert printed.exit_code == 0
    assert (FILES / f"{name}.json").read_text() == printed.stdout, f"python -m worker schema {name}"
    jsonschema.Draft202012Validator.check_schema(json.loads(printed.stdout))


def test_every_schema_is_committed_and_published_and_no_other() -> None:
    assert SIDES.keys() == SCHEMAS.keys()
    for folder in (FILES, PUBLISHED):
        assert {path.name for path in folder.glob("*.json")} == {f"{name}.json" for name in SCHEMAS}


def test_a_verdict_is_printed_without_a_name_and_an_unknown_name_is_refused() -> None:
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout)["title"] == "Verdict"
    refused = CliRunner().invoke(app, ["schema", "verdict.v9"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert refused.exit_code == 2
    for name in ("verdict.v9", *SCHEMAS):
        assert name in refused.stderr
    assert "Traceback" not in refused.stderr


# Compatibility --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_change_breaks_users_of_version_1(name: str) -> None:
    assert not breaks(read_json(PUBLISHED / f"{name}.json"), SCHEMAS[name](), SIDES[name])


def part(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return schema if not name else schema["$defs"][name]


def field(name: str, key: str, **changed: Any) -> Change:
    """A change that sets keywords of one field, or removes those given as None."""

    def change(schema: dict[str, Any]) -> None:
        wanted = part(schema, name)["properties"][key]
        wanted.update(changed)
        for keyword in [k for k, value in changed.items() if value is None]:
            del wanted[keyword]

    return change


def encoding(key: str, kind: str) -> Change:
    """One field of the schema inside the header ``genprint-encoding`` of dead letters, replaced or added."""

    def change(schema: dict[str, Any]) -> None:
        content = part(schema, "DeadLetterHeaders")["properties"]["genprint-encoding"]["contentSchema"]
        content["properties"][key] = {"type": kind}

    return change


def rename(name: str, key: str, to: str) -> Change:
    def change(schema: dict[str, Any]) -> None:
        fields = part(schema, name)["properties"]
        fields[to] = fields.pop(key)
        required = part(schema, name)["required"]
        required[required.index(key)] = to

    return change


def added(name: str, key: str, *, required: bool) -> Change:
    def change(schema: dict[str, Any]) -> None:
        part(schema, name)["properties"][key] = {"type": "string"}
        if required:
            part(schema, name)["required"].append(key)

    return change


BREAKS: list[tuple[str, Change, str]] = [
    ("verdict.v1", lambda s: s["properties"].pop("cached"), "$.cached: gone"),
    ("verdict.v1", rename("GeneratedPart", "decision", "label"), "$.generated.decision: gone"),
    ("verdict.v1", lambda s: s["required"].remove("run_id"), "$.run_id: no longer always there"),
    (
        "verdict.v1",
        lambda s: part(s, "GeneratedPart")["required"].remove("probability"),
        "$.generated.probability: no longer always there",
    ),
    (
        "verdict.v1",
        lambda s: part(s, "ImagePart")["properties"].update(
            sha256={"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Sha256"}
        ),
        "$.image.sha256: may now be null",
    ),
    ("verdict.v1", field("ImagePart", "sha256", type=["string", "null"]), "$.image.sha256: may now be null"),
    ("verdict.v1", field("ImagePart", "width", type="number"), "$.image.width: may now be number"),
    ("verdict.v1", field("ImagePart", "width", type="string"), "$.image.width: may now be string"),
    ("verdict.v1", field("ScorePart", "probability", maximum=100), "$.generated.scores.items.probability: maximum"),
    ("verdict.v1", field("ScorePart", "probability", minimum=None), "$.generated.scores.items.probability: minimum"),
    ("verdict.v1", field("GeneratedPart", "decision", enum=["real", "generated", "unsure"]), "enum was open"),
    (
        "verdict.v1",
        field("GeneratedPart", "decision", examples=["real", "synthetic", "unsure"]),
        "$.generated.decision: value gone: generated",
    ),
    ("verdict.v1", lambda s: s.update(additionalProperties=False), "$.additionalProperties: was True, is False"),
    (
        "verdict.v1",
        field("EventPart", "attributes", additionalProperties={"type": "integer"}),
        "$.event.attributes.additionalProperties: may now be integer",
    ),
    ("verdict.v1", field("EventPart", "attributes", additionalProperties=None), "was described, is True"),
    ("verdict.v1", field("GeneratedPart", "reasons", items={"type": "object"}), "may now be object"),
    ("verdict.v1", lambda s: s.update({"$id": "genprint:verdict.v2"}), "$: $id was"),
    ("headers.v1", field("VerdictHeaders", "ce_type", const="genprint.verdict.v2"), "VerdictHeaders.ce_type: const"),
    ("headers.v1", lambda s: s["$defs"].pop("DeadLetterHeaders"), "DeadLetterHeaders: gone"),
    ("headers.v1", field("DeadLetterHeaders", "genprint-reason", examples=["empty"]), "value gone: broken_image"),
    ("headers.v1", field("DeferredHeaders", "genprint-not-before", pattern="^.+$"), "pattern was"),
    ("headers.v1", field("DeferredHeaders", "genprint-not-before", pattern=None), "pattern was"),
    ("headers.v1", encoding("null_value", "string"), "genprint-encoding.contentSchema.null_value: may now be string"),
    ("headers.v1", field("DeadLetterHeaders", "genprint-encoding", contentSchema=None), "was described, is True"),
    ("image_event.v1", lambda s: part(s, "ClaimCheck")["properties"].pop("sha256"), "ClaimCheck.sha256: gone"),
    ("image_event.v1", added("ClaimCheck", "size", required=True), "ClaimCheck.size: now required"),
    ("image_event.v1", field("ClaimCheck", "uri", maxLength=100), "ClaimCheck.uri: maxLength was 8192, is 100"),
    ("image_event.v1", field("ClaimCheck", "uri", pattern="^https://"), "ClaimCheck.uri: pattern was"),
    ("image_event.v1", field("ClaimCheck", "sha256", type="string"), "ClaimCheck.sha256: may no longer be null"),
    ("image_event.v1", field("Structured", "id", type="integer"), "Structured.id: may no longer be string"),
    (
        "image_event.v1",
        lambda s: part(s, "Structured").update(additionalProperties={"type": "string"}),
        "Structured.additionalProperties: may no longer be boolean, integer, null, number",
    ),
    (
        "image_event.v1",
        lambda s: part(s, "ClaimCheck").update(additionalProperties={"type": "string"}),
        "ClaimCheck.additionalProperties: no longer free",
    ),
    ("image_event.v1", lambda s: part(s, "Headers")["else"]["required"].append("ce_time"), "Headers: else was"),
    ("image_event.v1", lambda s: s["anyOf"].pop(), "$: anyOf was"),
]


@pytest.mark.parametrize(("name", "change", "expected"), BREAKS)
def test_a_break_is_named(name: str, change: Change, expected: str) -> None:
    published = read_json(PUBLISHED / f"{name}.json")
    current = copy.deepcopy(published)
    change(current)
    found = breaks(published, current, SIDES[name])
    assert any(expected in line for line in found), found


SHARE = {"type": "number", "minimum": 0, "maximum": 1}

GROWTH: list[tuple[str, Change]] = [
    ("verdict.v1", added("", "provenance", required=False)),
    ("verdict.v1", added("GeneratedPart", "provenance", required=True)),
    ("verdict.v1", field("GeneratedPart", "decision", examples=["real", "generated", "unsure", "manipulated"])),
    ("verdict.v1", field("GeneratedPart", "probability", description="Other words.")),
    ("verdict.v1", field("ImagePart", "width", minimum=1)),
    ("verdict.v1", field("ScorePart", "logit", type="integer")),
    ("verdict.v1", lambda s: part(s, "GeneratedPart")["properties"].update(probability=SHARE)),
    ("verdict.v1", lambda s: s["required"].append("new")),
    ("headers.v1", added("DeadLetterHeaders", "genprint-run", required=True)),
    ("headers.v1", lambda s: s["$defs"].update(More={"type": "object"})),
    ("headers.v1", encoding("more", "string")),
    ("image_event.v1", added("ClaimCheck", "size", required=False)),
    ("image_event.v1", field("ClaimCheck", "uri", maxLength=None)),
    ("image_event.v1", field("ClaimCheck", "uri", maxLength=100_000)),
    ("image_event.v1", field("ClaimCheck", "uri", pattern=None)),
    ("image_event.v1", field("Structured", "id", type=["string", "integer"])),
    ("image_event.v1", lambda s: part(s, "ClaimCheck")["required"].clear()),
    ("image_event.v1", lambda s: part(s, "Headers").pop("else")),
]


@pytest.mark.parametrize(("name", "change"), GROWTH)
def test_growth_is_no_break(name: str, change: Change) -> None:
    published = read_json(PUBLISHED / f"{name}.json")
    current = copy.deepcopy(published)
    change(current)
    assert current != published
    assert not breaks(published, current, SIDES[name])


# The worker and the schemas -------------------------------------------------------------------------------------------

ORIGIN = ("images", 1, 5)


def record(value: bytes | None, headers: dict[str, str | None], key: bytes | None = b"k") -> Record:
    pairs = tuple((name, text if text is None else text.encode()) for name, text in headers.items())
    return Record(Partition(*ORIGIN[:2]), ORIGIN[2], 1, 0, key, value, pairs)


def text_headers(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers}


def is_taken(value: bytes, headers: dict[str, str]) -> bool:
    came = record(value, dict(headers))
    try:
        read_event(came, read_delivery(came, "images.retry"), 1000, ("tenant",))
    except EventError:
        return False
    return True


CLOUD_EVENT = {"specversion": "1.0", "type": "genprint.image.v1", "source": "urn:a", "id": "7"}
BINARY = {f"ce_{name}": text for name, text in CLOUD_EVENT.items()}
JSON, IMAGE = {"content-type": "application/json"}, {"content-type": "image/jpeg; q=1"}
CLAIM = {"uri": "s3://b/k", "sha256": "0" * 64}
ENCODED = {"datacontenttype": "image/png", "data_base64": base64.b64encode(b"x").decode()}

GOOD_VALUES: list[dict[str, Any]] = [
    CLAIM,
    {"uri": "https://h/x"},
    {**CLAIM, "sha256": None, "size": 7},
    {**CLOUD_EVENT, "data": CLAIM},
    {**CLOUD_EVENT, "datacontenttype": "application/json; charset=utf-8", "data": CLAIM, "tenant": "t", "priority": 3},
    {**CLOUD_EVENT, **ENCODED, "urgent": True, "nothing": None},
]
BAD_VALUES: list[dict[str, Any]] = [
    {},
    {"uri": ""},
    {"uri": 5},
    {"uri": "s3://b/k", "sha256": "0" * 63},
    {**CLOUD_EVENT},
    {**CLOUD_EVENT, "id": "", "data": CLAIM},
    {**CLOUD_EVENT, "data": "x"},
    {**CLOUD_EVENT, "datacontenttype": "image/png", "data": CLAIM},
    {**CLOUD_EVENT, "datacontenttype": "text/plain", "data_base64": "eA=="},
    {**CLOUD_EVENT, **ENCODED, "tenant": ["t"]},
    {**CLOUD_EVENT, **ENCODED, "data_base64": "eA="},
    {**CLOUD_EVENT, **ENCODED, "data_base64": "*"},
    {"data": CLAIM},
]


def mode(value: dict[str, Any]) -> dict[str, str]:
    return JSON if "uri" in value or not value else {"content-type": "application/cloudevents+json"}


@pytest.mark.parametrize("value", GOOD_VALUES)
def test_values_that_the_schema_allows_are_taken(value: dict[str, Any]) -> None:
    validator("image_event.v1").validate(value)
    assert is_taken(json.dumps(value).encode(), mode(value))


@pytest.mark.parametrize("value", BAD_VALUES)
def test_values_that_the_worker_refuses_are_not_allowed(value: dict[str, Any]) -> None:
    assert not is_taken(json.dumps(value).encode(), mode(value))
    assert not validator("image_event.v1").is_valid(value)


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        (IMAGE, b"x"),
        ({**IMAGE, "traceparent": "00-1", "other": "o"}, b"x"),
        ({**IMAGE, **BINARY, "ce_subject": "ü", "ce_tenant": "t"}, b"x"),
        ({**JSON, **BINARY}, json.dumps(CLAIM).encode()),
    ],
)
def test_headers_that_the_schema_allows_are_taken(headers: dict[str, str], value: bytes) -> None:
    validator("image_event.v1", "Headers").validate(headers)
    assert is_taken(value, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "imagepng"},
        {**IMAGE, "ce_tenant": "t"},
        {**IMAGE, "ce_id": "7"},
        {**IMAGE, **BINARY, "ce_id": ""},
        {**IMAGE, **BINARY, "ce_subject": "x" * 8193},
    ],
)
def test_headers_that_the_worker_refuses_are_not_allowed(headers: dict[str, str]) -> None:
    assert not is_taken(b"x", headers)
    assert not validator("image_event.v1", "Headers").is_valid(headers)


_words = st.text(max_size=8)
_json = st.none() | st.booleans() | st.integers(-5, 5) | _words | st.just(CLAIM) | st.just([1])
_values = st.dictionaries(
    st.sampled_from([*CLOUD_EVENT, *ENCODED, *CLAIM, "data", "subject", "tenant"]) | _words,
    _json | st.sampled_from([*ENCODED.values(), *CLAIM.values(), *CLOUD_EVENT.values()]),
    max_size=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.sampled_from([{}, CLAIM, {**CLOUD_EVENT, "data": CLAIM}, {**CLOUD_EVENT, **ENCODED}]), _values)
def test_whatever_value_the_schema_allows_is_taken(base: dict[str, Any], more: dict[str, Any]) -> None:
    value = {**base, **more}
    for part_name, headers in (("ClaimCheck", JSON), ("Structured", {"content-type": "application/cloudevents+json"})):
        if validator("image_event.v1", part_name).is_valid(value):
            assert is_taken(json.dumps(value).encode(), headers), value


def test_what_is_produced_follows_the_schema(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    events = list(image_events(tmp_path, Settings(), kind="both"))
    assert len(events) == 2
    for event in events:
        headers = text_headers(event)
        validator("image_event.v1", "Headers").validate(headers)
        if headers["content-type"] == "application/json":
            validator("image_event.v1", "ClaimCheck").validate(json.loads(event.value))


def test_headers_of_verdicts_follow_the_schema() -> None:
    check = validator("headers.v1", "VerdictHeaders")
    for subject, traceparent in (("cat.png", "00-1"), (None, None)):
        message = verdict_message(make_verdict(subject=subject), topic="v", key=None, traceparent=traceparent)
        headers = text_headers(message)
        check.validate(headers)
        assert not check.is_valid({**headers, "ce_type": "genprint.verdict.v2"})
        assert not check.is_valid({name: text for name, text in headers.items() if name != "ce_id"})


def test_headers_of_letters_follow_the_schema() -> None:
    came = record(None, {"content-type": "image/png", "x": None})
    delivery = read_delivery(came, "images.retry")
    late = deferral(came, delivery, topic="r", reason="source_busy", detail="d", not_before_ms=5)
    dead = dead_letter(came, delivery, topic="d", reason="empty_event", detail="d", max_bytes=2**20)
    letters = ((late, "DeferredHeaders"), (dead, "DeadLetterHeaders"), (without_value(dead), "DeadLetterHeaders"))
    for message, name in letters:
        headers = text_headers(message)
        check = validator("headers.v1", name)
        check.validate(headers)
        encoding = check.schema["$defs"][name]["properties"]["genprint-encoding"]["contentSchema"]
        jsonschema.Draft202012Validator({**encoding, "additionalProperties": False}).validate(
            json.loads(headers["genprint-encoding"])
        )
        for key in ("genprint-origin", "genprint-attempt", "genprint-reason"):
            assert not check.is_valid({**headers, key: 5})
            assert not check.is_valid({k: v for k, v in headers.items() if k != key})
    assert not validator("headers.v1", "DeferredHeaders").is_valid(text_headers(dead))


def test_the_page_names_every_reason() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    for disposition in (Disposition.REJECT, Disposition.DEFER):
        found = reasons(disposition)
        assert len(found) >= 3
        assert not [reason for reason in found if f"`{reason}`" not in page]
    assert "empty_event" in reasons(Disposition.REJECT)
    assert "over_share" in reasons(Disposition.DEFER)
    assert not set(reasons(Disposition.REJECT)) & set(reasons(Disposition.DEFER))

"""The AsyncAPI document: valid by AsyncAPI's own schema, and about the topics and schemas that there are."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.node_packages import node_modules
from tests.deploy.requirements import require
from worker.messages.schemas import SCHEMAS
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "deploy" / "asyncapi.yaml"
PACKAGE = ROOT / "deploy" / "consumers" / "node" / "package.json"

Change = Callable[[dict[str, Any]], object]


def read_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
    return document


@cache
def official() -> jsonschema.Draft7Validator:
    """AsyncAPI's own JSON Schema of the version that the document names."""
    version = read_document()["asyncapi"]
    path = node_modules(PACKAGE) / "@asyncapi" / "specs" / "schemas" / f"{version}-without-$id.json"
    return jsonschema.Draft7Validator(json.loads(path.read_text()))


@pytest.fixture(scope="module", autouse=True)
def _npm() -> None:
    require("npm" if shutil.which("npm") is None else None)


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def target(reference: str, document: dict[str, Any]) -> Any:
    """What a reference points to; a KeyError or an OSError where that is nothing."""
    file, _, pointer = reference.partition("#")
    found: Any = json.loads((DOCUMENT.parent / file).read_text()) if file else document
    for step in pointer.strip("/").split("/") if pointer else ():
        found = found[step]
    return found


def validator(document: dict[str, Any], node: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """A validator of a message's headers or payload: through the document into the schema's file."""
    while set(node) == {"$ref"} and node["$ref"].startswith("#"):
        node = target(node["$ref"], document)
    reference = node["schema"]["$ref"]
    whole = target(reference.partition("#")[0], document)
    pointer = reference.partition("#")[2]
    return jsonschema.Draft202012Validator({"$defs": whole["$defs"], "$ref": f"#{pointer}"} if pointer else whole)


def test_it_is_valid_by_the_schema_of_asyncapi() -> None:
    assert not [error.message for error in official().iter_errors(read_document())]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda d: d.pop("info"),
        lambda d: d.update(asyncapi="3.0"),
        lambda d: d["channels"]["images"].update(adress="images"),
        lambda d: d["operations"]["sendVerdicts"].update(action="publish"),
        lambda d: d["operations"]["sendVerdicts"].pop("channel"),
        lambda d: d["servers"]["kafka"].pop("protocol"),
        lambda d: d["components"]["messages"]["verdict"].update(content_type="application/json"),
        lambda d: (
            d["components"]["messages"]["claimCheck"]["examples"][0].pop("payload")
            and d["components"]["messages"]["claimCheck"]["examples"][0].pop("headers")
        ),
    ],
)
def test_a_mistake_is_not_valid(mistake: Change) -> None:
    document = copy.deepcopy(read_document())
    mistake(document)
    assert not official().is_valid(document)


def test_every_reference_points_to_something_and_every_schema_is_used() -> None:
    document = read_document()
    found = set(references(document))
    for reference in found:
        assert target(reference, document), reference
    used = {Path(reference.partition("#")[0]).name for reference in found if not reference.startswith("#")}
    assert used == {f"{name}.json" for name in SCHEMAS}


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("#/components/messages/verdikt", KeyError),
        ("../worker/schemas/verdict.v2.json", OSError),
        ("../worker/schemas/headers.v1.json#/$defs/Verdict", KeyError),
    ],
)
def test_a_reference_to_nothing_is_found(reference: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        target(reference, read_document())


def test_channels_are_the_topics_that_the_worker_reads_and_writes() -> None:
    document, kafka = read_document(), Settings().kafka
    topics = {kafka.images_topic, kafka.retry_topic, kafka.dead_topic, kafka.verdicts_topic}
    assert {channel["address"] for channel in document["channels"].values()} == topics
    does: dict[str, set[str]] = {"receive": set(), "send": set()}
    for operation in document["operations"].values():
        does[operation["action"]].add(target(operation["channel"]["$ref"], document)["address"])
    assert does == {"receive": {kafka.images_topic, kafka.retry_topic}, "send": topics - {kafka.images_topic}}


def test_examples_follow_the_schemas_and_wrong_ones_would_not() -> None:
    document = read_document()
    checked = 0
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            for what in ("headers", "payload"):
                if what in example and "$ref" in message[what]:
                    check = validator(document, message[what])
                    check.validate(example[what])
                    assert not check.is_valid({})
                    checked += 1
    assert checked >= 5

"""Events that ``produce`` makes are events that the worker reads, whatever the files are called."""

import os
from concurrent.futures import Future
from pathlib import Path

import pytest

from bundle.store import sha256
from tests.worker.small_bundle import encoded_image
from worker.errors import EventTooLarge
from worker.images.fetch import Fetcher
from worker.messages.events import ClaimCheck, ImageEvent, InlineImage, read_delivery, read_event
from worker.messages.records import Message, Partition, Record
from worker.settings import FetchSettings, Settings
from worker.tools.image_files import find_images
from worker.tools.produce import ContentKind, image_events

NAMES = [b"a.png", b"b c#d?e%20f.jpg", b"sub/\xc3\xbc+&.webp", b"\xff.gif", b"none.avif"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        (tmp_path / "images" / os.fsdecode(name)).write_bytes(encoded_image(100, seed=seed))
    (tmp_path / "images" / "notes.txt").write_text("x")
    return tmp_path / "images"


def read(message: Message) -> ImageEvent:
    record = Record(Partition(message.topic, 0), 0, 0, 0, message.key, message.value, message.headers)
    return read_event(record, read_delivery(record, "images.retry"), 10**6, ())


def events(folder: Path, kind: ContentKind, uri_prefix: str | None = None) -> list[ImageEvent]:
    return [read(message) for message in image_events(folder, Settings(), kind=kind, uri_prefix=uri_prefix)]


def expected(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".txt"]


def test_what_can_get_no_verdict_is_not_sent(folder: Path) -> None:
    (folder / "x.heic").write_bytes(b"x")
    (folder / "nowhere.png").symlink_to(folder / "nothing.png")
    os.mkfifo(folder / "fifo.png")
    found = events(folder, "inline")
    assert len(found) == len(NAMES)
    assert find_images([folder], only_taken=True).left_out == "1 .heic, 1 .txt, 2 that are no files"


def test_inline_events_carry_the_files(folder: Path) -> None:
    found = events(folder, "inline")
    assert [event.content for event in found] == [InlineImage(data) for data in expected(folder)]
    assert [event.subject for event in found] == ["a.png", "b c#d?e%20f.jpg", "none.avif", "sub/ü+&.webp", "\ufffd.gif"]
    assert len({event.id for event in found}) == len(NAMES)


@pytest.mark.parametrize(
    ("kind", "limit", "instead"), [("inline", 8 * 2**20, "a claim check"), ("claim-check", 20 * 2**20, "")]
)
def test_a_file_that_the_worker_would_not_take_is_named_and_not_read(
    folder: Path, kind: ContentKind, limit: int, instead: str
) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(EventTooLarge, match=f"huge.png: more than {limit} bytes.*{instead}"):
        events(folder, kind)


def test_claim_checks_lead_to_the_files(folder: Path) -> None:
    fetcher = Fetcher(FetchSettings(sources=(folder.as_uri(),)))
    fetcher.start()
    try:
        for event, data in zip(events(folder, "claim-check"), expected(folder), strict=True):
            assert isinstance(event.content, ClaimCheck)
            assert event.content.sha256 == sha256(data)
            fetched: Future[bytes] = fetcher.fetch(event.content.uri).future
            assert fetched.result(10) == data
    finally:
        fetcher.close()


def test_a_prefix_replaces_the_folder(folder: Path) -> None:
    found = events(folder, "claim-check", "s3://uploads/x/")
    assert [event.content.uri for event in found if isinstance(event.content, ClaimCheck)] == [
        "s3://uploads/x/a.png",
        "s3://uploads/x/b%20c%23d%3Fe%2520f.jpg",
        "s3://uploads/x/none.avif",
        "s3://uploads/x/sub/%C3%BC%2B%26.webp",
        "s3://uploads/x/%FF.gif",
    ]


def test_both_kinds_alternate(folder: Path) -> None:
    kinds = [type(event.content) for event in events(folder, "both")]
    assert kinds == [InlineImage, ClaimCheck, InlineImage, ClaimCheck, InlineImage]


def test_content_types_and_keys(folder: Path) -> None:
    messages = list(image_events(folder, Settings.model_validate({"kafka": {"images_topic": "t"}}), kind="inline"))
    assert {message.topic for message in messages} == {"t"}
    assert messages[0].key == b"a.png"
    types = [dict(message.headers)["content-type"].decode() for message in messages]
    assert types[:2] == ["image/png", "image/jpeg"]
    assert all(kind.startswith("image/") or kind == "application/octet-stream" for kind in types)

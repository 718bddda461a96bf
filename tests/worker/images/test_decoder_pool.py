"""Decoding in processes of their own: the same views as in-process, and nothing that an image does to them spreads."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.containers import FORMATS
from bundle.errors import BrokenImage, EmptyImage, ImageTooLarge, TooManyPixels, UnsupportedFormat
from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import ImageFacts, Limits, decode, make_views, pixels_digest
from bundle.store import Bundle
from tests.worker.images.harmful_decoder import HARM, boast, crash, demand, escape, hang, lie, stumble, swallow
from tests.worker.images.in_process import InProcess
from tests.worker.messages.edges import until
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.errors import DecodeMemory, DecoderCrashed, DecoderError, DecodeTimeout, StartupError
from worker.images import decoder_process
from worker.images.decoder import ANSWERS, MESSAGE_MAX_BYTES, Decoded, Refused, brief_ascii
from worker.images.decoder_pool import DecoderPool
from worker.images.decoder_process import DecoderProcess
from worker.images.prepare import BATCH_IMAGES, PreparedImage
from worker.settings import Settings

Start = Callable[..., DecoderPool]
PROGRAM = Path(__file__).with_name("harmful_decoder.py")
GOOD = encoded_image(100)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """A folder with a file for each decoder that was started."""
    folder = tmp_path / "processes"
    folder.mkdir()
    return folder


@pytest.fixture
def ends() -> list[DecoderError]:
    """How decoders ended."""
    return []


@pytest.fixture
def start(bundle: Bundle, processes: Path, ends: list[DecoderError]) -> Iterator[Start]:
    """Starts a pool of decoders that do harm on command."""
    pools = []

    def started(count: int = 1, *, deadline_s: float = 60, bundle: Bundle = bundle, **images: Any) -> DecoderPool:
        settings = Settings.model_validate({"images": {"decode_processes": count, **images}})
        command = (sys.executable, "-I", str(PROGRAM), str(processes))
        pool = DecoderPool(bundle, settings, ends.append, command, deadline_s)
        pools.append(pool)
        pool.start()
        return pool

    yield started
    for pool in pools:
        pool.close()


def harmful(harm: Callable[[], None]) -> bytes:
    """An image that makes a decoder do this."""
    [width] = [width for width, each in HARM.items() if each is harm]
    buffer = io.BytesIO()
    Image.new("RGB", (width, 24), "grey").save(buffer, "PNG")
    return buffer.getvalue()


def running(processes: Path) -> list[int]:
    """Process ids of decoders that were started and have not ended."""
    found = []
    for file in processes.iterdir():
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{file.name}/stat").read_text().rpartition(")")[2].split()[0]
            found += [int(file.name)] if state not in "ZX" else []
    return found


# What decoders give --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(24, 24), (40, 30), (8, 8), (900, 700)])
def test_views_are_those_of_the_worker_itself(
    pool: DecoderPool, bundle: Bundle, name: str, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size).save(buffer, name)
    expected = InProcess(bundle.manifest.models).prepare(buffer.getvalue())
    found = pool.prepare(buffer.getvalue())
    assert found.facts == expected.facts
    assert found.views.keys() == expected.views.keys()
    for model, views in expected.views.items():
        assert found.views[model].dtype == np.uint8
        np.testing.assert_array_equal(found.views[model], views)


@pytest.fixture(scope="module")
def pool(bundle: Bundle) -> Iterator[DecoderPool]:
    """The real decoders, with so little memory that a large image has to ask for more."""
    settings = Settings.model_validate(
        {"images": {"decode_processes": 2, "memory_bytes": 2**20, "max_pixels": 7_000_000}}
    )
    made = DecoderPool(bundle, settings)
    made.start()
    yield made
    made.close()


def test_models_with_the_same_preprocessing_share_their_views(start: Start, bundle: Bundle) -> None:
    [model] = bundle.manifest.models
    grid = View(crop=Crop(mode="grid", size=8, stride=8, max=4))
    whole = View(resize=Resize(mode="exact", size=8))
    other = model.model_copy(update={"name": "other", "preprocessing": Preprocessing(views=(grid, whole))})
    models = (model, model.model_copy(update={"name": "twin"}), other)
    pixels = {each.name: bundle.probe.pixels[model.name] for each in models} | {
        "other": tuple(
            pixels_digest(make_views(decode(data), other.preprocessing)) for data in bundle.probe.images.values()
        )
    }
    manifest = bundle.manifest.model_copy(update={"models": models})
    three = replace(bundle, manifest=manifest, probe=replace(bundle.probe, pixels=pixels))
    views = start(bundle=three).prepare(GOOD).views
    assert views["twin"] is views[model.name]
    assert views["other"].shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(views["other"], InProcess(models).prepare(GOOD).views["other"])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyImage),
        (bytes(21 * 2**20), ImageTooLarge),
        (b"no image at all", UnsupportedFormat),
        (encoded_image(100, size=200)[:-100], BrokenImage),
        (encoded_image(0, size=3000), TooManyPixels),
    ],
    ids=["empty", "large", "text", "cut", "wide"],
)
def test_an_image_that_is_at_fault_is_refused_by_name(pool: DecoderPool, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        pool.prepare(data)
    assert str(caught.value)
    assert pool.held_bytes == 0
    assert pool.prepare(GOOD).facts.width == 24


def test_images_of_one_request_get_their_own_answers(pool: DecoderPool, bundle: Bundle) -> None:
    images = [encoded_image(90, seed=1), b"no image at all", b"", encoded_image(200, seed=2, size=90)]
    alone = InProcess(bundle.manifest.models)
    for order in (images, images[::-1]):
        found, expected = pool.prepare_small(order), alone.prepare_small(order)
        assert list(map(type, found)) == list(map(type, expected))
        for image, own in zip(found, expected, strict=True):
            if isinstance(image, PreparedImage) and isinstance(own, PreparedImage):
                assert image.facts == own.facts
                for model, views in own.views.items():
                    np.testing.assert_array_equal(image.views[model], views)
            else:
                assert str(image) == str(own)
    assert pool.held_bytes == 0


@pytest.mark.parametrize("said", ["\x1b", "\\", '"', "\u20ac", "\ud800"])
def test_whatever_errors_say_the_answers_fit_into_one_message(said: str) -> None:
    refused = [Refused(error="BrokenImage", detail=brief_ascii(500 * said))] * BATCH_IMAGES
    assert len(ANSWERS.dump_json([*refused])) <= MESSAGE_MAX_BYTES


# Harm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (crash, DecoderCrashed, "signal 11"),
        (hang, DecodeTimeout, "no answer within"),
        (swallow, DecodeMemory, "bytes"),
        (lie, DecoderCrashed, "makes no sense"),
        (boast, DecoderCrashed, "makes no sense"),
        (demand, DecoderCrashed, "makes no sense"),
    ],
)
def test_harm_costs_the_image_and_a_process_twice(
    start: Start,
    processes: Path,
    ends: list[DecoderError],
    harm: Callable[[], None],
    error: type[DecoderError],
    says: str,
) -> None:
    pool = start(deadline_s=2 if harm is hang else 60)
    with pytest.raises(error, match=says):
        pool.prepare(harmful(harm))
    assert len(list(processes.iterdir())) == 3, "the first, and one after each harm"
    assert [type(end) for end in ends] == [error, error]
    assert len(running(processes)) == 1
    assert pool.prepare(GOOD).facts.width == 24
    assert (pool.held_bytes, pool.waiting) == (0, 0)


def test_an_image_that_ends_one_process_alone_is_decoded_in_the_next(start: Start, processes: Path) -> None:
    assert start().prepare(harmful(stumble)).facts.height == 24
    assert len(list(processes.iterdir())) == 2


def test_a_decoder_can_do_nothing_but_decode(start: Start, processes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert start().prepare(harmful(escape)).facts.height == 24
    assert len(list(processes.iterdir())) == 1


def test_the_kernel_itself_says_what_a_decoder_gave_up(bundle: Bundle, processes: Path) -> None:
    """The filter of system calls would refuse most of this anyway; each holds without the others."""
    (processes / "not root").touch()
    preprocessings = [model.preprocessing for model in bundle.manifest.models]
    command = (sys.executable, "-I", str(PROGRAM), str(processes))
    process = DecoderProcess(preprocessings, Limits(), granted_bytes=2**24, command=command)
    with contextlib.closing(process):
        assert process.start() is None
        [decoder] = running(processes)
        seen = Path(f"/proc/{decoder}")
        status = dict(line.split(":\t", 1) for line in (seen / "status").read_text().splitlines())
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        most = {"core file size": 0, "open files": 0, "processes": 0, "file size": 64 * 1024}
        limits = (seen / "limits").read_text()
        found = {name: re.findall(rf"^Max {name} +(\d+) +(\d+) ", limits, re.MULTILINE) for name in most}
        assert found == {name: [(str(number), str(number))] for name, number in most.items()}
        _, user, *_ = status["Uid"].split()
        assert user != "0"
        assert (seen / "mem").stat().st_uid == 0, "its own user may look into it: it is dumpable"


def test_the_kernel_ends_a_decoder_before_its_worker_where_memory_is_short(start: Start, processes: Path) -> None:
    start()
    [decoder] = running(processes)
    assert Path(f"/proc/{decoder}/oom_score_adj").read_text().strip() == "1000"


def test_images_beside_a_harmful_one_are_decoded(start: Start) -> None:
    pool = start(2)
    images = [harmful(crash) if n % 10 == 0 else encoded_image(100, seed=n) for n in range(40)]

    def outcome(data: bytes) -> str:
        try:
            return pool.prepare(data).facts.format
        except DecoderError as error:
            return error.reason

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(outcome, images)) == ["decoder_crashed" if n % 10 == 0 else "PNG" for n in range(40)]


def test_an_end_on_several_images_is_nobodys_fault_yet(start: Start, processes: Path) -> None:
    pool = start()
    assert pool.prepare_small([encoded_image(100, seed=1), harmful(crash), encoded_image(100, seed=2)]) == [None] * 3
    assert len(list(processes.iterdir())) == 2
    assert (pool.held_bytes, pool.waiting) == (0, 0)


def test_what_needs_more_memory_than_is_left_is_decoded_alone(start: Start, processes: Path) -> None:
    pool = start(memory_bytes=2**20)
    small, wide = encoded_image(100, seed=1), encoded_image(100, size=300)
    found = pool.prepare_small([wide, small, wide, small])
    assert [type(each) for each in found] == [type(None), PreparedImage, type(None), PreparedImage]
    assert len(list(processes.iterdir())) == 1


@pytest.mark.parametrize("harm", [boast, demand, lie])
def test_lies_about_images_of_one_request_are_not_believed(start: Start, harm: Callable[[], None]) -> None:
    pool = start()
    assert pool.prepare_small([GOOD, harmful(harm)]) == [None, None]
    assert pool.prepare(GOOD).facts.width == 24


def test_a_decoder_that_is_killed_is_replaced_without_a_word_about_the_image(start: Start, processes: Path) -> None:
    pool = start()
    for _ in range(3):
        [pid] = running(processes)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not running(processes), "the process has ended")
        assert pool.prepare(GOOD).facts.width == 24


def test_views_that_no_honest_decoder_had_the_memory_for_are_not_believed() -> None:
    grid = Preprocessing(views=(View(crop=Crop(mode="grid", size=224, stride=8, max=256)),))
    process = DecoderProcess([grid], Limits(), granted_bytes=2**24)
    facts = ImageFacts("PNG", 24, 24, bytes=100, animated=False)
    with pytest.raises(DecoderCrashed, match="makes no sense"):
        process._results([Decoded(facts=facts, counts=(256,))], [100], 2**24)


def test_one_that_hangs_without_its_worker_ends_by_itself(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "_GRACE_S", -1.5)
    pool = start(deadline_s=2)
    with pytest.raises(DecodeTimeout, match="ended itself"):
        pool.prepare(harmful(hang))


# Faults of the worker ------------------------------------------------------------------------------------------------


def test_while_no_decoder_works_images_wait(start: Start, processes: Path) -> None:
    pool = start()
    broken = processes / "broken"
    broken.touch()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(pool.prepare, harmful(stumble))
        until(lambda: pool.waiting > 0, "the pool has noticed")
        assert not answer.done()
        broken.unlink()
        assert answer.result(60).facts.height == 24
    assert not pool.waiting


def test_what_failed_before_a_pause_counts_no_more(start: Start, processes: Path) -> None:
    pool = start()
    broken = processes / "broken"
    broken.touch()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(pool.prepare, harmful(crash))
        until(lambda: pool.waiting > 0, "the pool has noticed")
        broken.unlink()
        with pytest.raises(DecoderCrashed):
            answer.result(60)
    assert len(list(processes.iterdir())) == 4, "the first, the one after the pause, and one after each further crash"


def test_start_fails_where_no_decoder_works(start: Start, processes: Path) -> None:
    (processes / "broken").touch()
    with pytest.raises(StartupError, match=r"cannot be decoded here: .*broken"):
        start(2)


def test_start_fails_where_decoders_give_other_pixels(start: Start, bundle: Bundle) -> None:
    pixels = {name: ("0" * 64,) * len(digests) for name, digests in bundle.probe.pixels.items()}
    with pytest.raises(StartupError, match=r"decodes probe/0\.png .* to other pixels"):
        start(bundle=replace(bundle, probe=replace(bundle.probe, pixels=pixels)))


def test_where_the_kernel_refuses_the_sandbox_a_setting_decides(start: Start, processes: Path) -> None:
    (processes / "unprotected").touch()
    with pytest.raises(StartupError, match=r"images\.sandbox=required.*not permitted"):
        start()
    pool = start(sandbox="optional")
    assert pool.prepare(GOOD).facts.width == 24
    assert pool.unprotected == 1
    with pytest.raises(DecoderCrashed, match="its process ended"):
        pool.prepare(harmful(escape))


# The end -------------------------------------------------------------------------------------------------------------


def test_closing_ends_what_is_under_way(start: Start, processes: Path) -> None:
    pool = start(2)
    with ThreadPoolExecutor(2) as threads:
        hanging = [threads.submit(pool.prepare, harmful(hang)) for _ in range(2)]
        until(lambda: pool.held_bytes > 0, "both are being decoded")
        pool.close()
        assert {type(future.exception(30)) for future in hanging} <= {DecodeMemory, DecoderCrashed}
    assert running(processes) == []
    with pytest.raises(DecoderCrashed, match="closed"):
        pool.prepare(GOOD)
    assert pool.prepare_small([GOOD, GOOD]) == [None, None]
    pool.close()


def test_closing_needs_no_start(bundle: Bundle) -> None:
    pool = DecoderPool(bundle, Settings())
    pool.close()
    pool.close()


_WORKER = """
import sys
from pathlib import Path
from bundle.store import load_bundle
from worker.images.decoder_pool import DecoderPool
from worker.settings import Settings

settings = Settings.model_validate({"images": {"decode_processes": 2}})
DecoderPool(load_bundle(Path(sys.argv[1])), settings, print, sys.argv[2:]).start()
print("started", flush=True)
input()
"""


def test_decoders_end_with_a_worker_that_is_killed(bundle: Bundle, processes: Path) -> None:
    command = [sys.executable, "-c", _WORKER, str(bundle.path), sys.executable, "-I", str(PROGRAM), str(processes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"started\n"
        assert len(running(processes)) == 2
        worker.kill()
    until(lambda: not running(processes), "the decoders have ended")

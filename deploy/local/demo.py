"""`make demo`: everything once, on this machine, with real images: train, export, serve a stream, read the verdicts.

Each part runs as its users run it, as a program of its own; the verdicts are read by a client written by others.
``python -m deploy.local.demo trainer/recipes/contrastive.toml`` does it with another system.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, Self, TextIO

import typer
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bundle.errors import BundleError
from bundle.store import load_bundle
from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.errors import LocalServerError
from deploy.local.ports import LOOPBACK
from deploy.local.process import ServerProcess
from deploy.local.topics import GENPRINT_TOPICS, create_topics
from deploy.local.valkey import Valkey
from deploy.local.worker import ROOT, local_worker, worker_environment

RECIPE = ROOT / "trainer" / "recipes" / "demo.toml"
PARTITIONS = 4
ROWS_SHOWN = 30
VERDICTS_DEADLINE_S = 120.0

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Paths:
    """What the demo leaves behind."""

    folder: Path
    data: Path
    """train, calib and test, one sub-folder a class; the same for all recipes."""

    @classmethod
    def of(cls, recipe: Path) -> Self:
        """Those of a recipe."""
        demo = ROOT / "build" / "demo"
        return cls(demo if recipe == RECIPE else demo.with_name(f"demo-{recipe.stem}"), demo / "data")

    @property
    def test(self) -> Path:
        """Images of photographs that nothing was trained or calibrated on."""
        return self.data / "test"

    @property
    def checkpoint(self) -> Path:
        """The trained network."""
        return self.folder / "checkpoint.pt"

    @property
    def bundle(self) -> Path:
        """What the worker serves."""
        return self.folder / "bundle"

    @property
    def recipe(self) -> Path:
        """A copy of what the bundle was trained by."""
        return self.folder / "recipe.toml"


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict beside the truth, which is the folder that the image lay in."""

    truth: str
    verdict: dict[str, Any]

    @property
    def decision_is_right(self) -> bool:
        """`real` for photographs, `generated` for the rest; `unsure` is never right."""
        return bool(self.verdict["generated"]["decision"] == ("real" if self.truth == "real" else "generated"))

    @property
    def source_is_right(self) -> bool:
        """The generator's name; for photographs, that none is named."""
        return bool(self.verdict["attribution"]["source"] == (None if self.truth == "real" else self.truth))


def main(
    recipe: Annotated[Path, typer.Argument(help="What is trained.", exists=True, dir_okay=False)] = RECIPE,
) -> None:
    """Run the demo; exit status 1 if an event got no verdict."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter is ignored where a shell starts us in the background
        signal.signal(number, _leave)
    recipe = recipe.resolve()
    paths = Paths.of(recipe)
    paths.folder.mkdir(parents=True, exist_ok=True)
    try:
        if not _has_bundle(paths, recipe):
            make_bundle(paths, recipe)
        answers, images, seconds = stream(paths)
    except (LocalServerError, subprocess.CalledProcessError) as error:
        console.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("demo: stopped; everything that was started has been stopped", style="yellow")
        sys.exit(130)
    show(answers, seconds)
    missing = images - len(answers)
    console.print(f"All verdicts: {paths.folder / 'verdicts.jsonl'}   metrics: {paths.folder / 'metrics.txt'}")
    if missing:
        console.print(f"demo: {missing} of {images} events got no verdict", style="red")
        sys.exit(1)


def make_bundle(paths: Paths, recipe: Path) -> None:
    """Training set, network, bundle: a few minutes, and kept for the next time."""
    if recipe == RECIPE or not paths.test.is_dir():
        _step("1/4 training set from photographs", "trainer", "synth", paths.data, "--force")
    _step("2/4 training", "trainer", "train", paths.data / "train", paths.checkpoint, "--recipe", recipe, "--force")
    _step("3/4 export", "exporter", "export", paths.checkpoint, paths.bundle, "--data", paths.data, "--force")
    shutil.copyfile(recipe, paths.recipe)


def stream(paths: Paths) -> tuple[list[Answer], int, float]:
    """Serve the test images, twice: the second time they are cached.

    Returns:
        Answers, number of events, seconds from the first event to the last verdict.
    """
    console.rule("4/4 streaming")
    with ExitStack() as running:
        broker = EmbeddedBroker(paths.folder / "broker.log")
        valkey = Valkey(paths.folder / "valkey.log")
        worker = local_worker(broker, valkey, paths.bundle, paths.folder / "worker.log", _sources(paths))
        for server in (broker, valkey):
            running.enter_context(server)
        create_topics(broker.bootstrap, dict.fromkeys(GENPRINT_TOPICS, PARTITIONS))
        with console.status("worker: loading the bundle, joining the group"):
            running.enter_context(worker)
        reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "demo", "log_level": 0})
        running.callback(reader.close)
        # From the beginning, without a group: nothing can be missed.
        topics = ("verdicts", "images.dead")
        reader.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)])
        images = sum(1 for path in paths.test.rglob("*") if path.is_file())
        started = time.monotonic()
        answers: dict[str, Answer] = {}
        with (paths.folder / "verdicts.jsonl").open("w") as file:
            for turn in (1, 2):
                _run("produce", paths.test, env=worker_environment(broker, valkey) | _sources(paths))
                answers |= read_verdicts(reader, turn * images, answers, file, worker)
        seconds = time.monotonic() - started
        with urllib.request.urlopen(f"http://{LOOPBACK}:{worker.port}/metrics", timeout=10) as response:
            (paths.folder / "metrics.txt").write_bytes(response.read())
    return list(answers.values()), 2 * images, seconds


def read_verdicts(
    reader: Consumer, wanted: int, known: Mapping[str, Answer], file: TextIO, worker: ServerProcess
) -> dict[str, Answer]:
    """Read until ``wanted`` different events are answered, or the deadline; write each verdict as a line.

    Raises:
        ExitedError: the worker has ended by itself.
    """
    answers = dict(known)
    deadline = time.monotonic() + VERDICTS_DEADLINE_S
    columns = (TextColumn("verdicts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=wanted, completed=len(answers))
        while len(answers) < wanted and time.monotonic() < deadline:
            worker.require_running()
            for message in reader.consume(256, timeout=0.2):
                if message.error():
                    continue
                value = message.value() or b""
                if message.topic() == "images.dead":
                    console.print(f"dead letter: {dict(message.headers() or [])}", style="red", markup=False)
                    continue
                verdict = json.loads(value)
                if verdict["verdict_id"] not in answers:  # delivered at least once: a verdict may come twice
                    answers[verdict["verdict_id"]] = Answer(Path(verdict["event"]["subject"]).parts[0], verdict)
                    file.write(value.decode() + "\n")
            bar.update(task, completed=len(answers))
    return answers


def show(answers: Sequence[Answer], seconds: float) -> None:
    """A table of some answers, mistakes first among them, and a line about all."""
    wrong = [a for a in answers if not (a.decision_is_right and a.source_is_right)]
    right = [a for a in answers if a.decision_is_right and a.source_is_right]
    room = max(0, ROWS_SHOWN - len(wrong[: ROWS_SHOWN // 2]))
    shown = wrong[: ROWS_SHOWN // 2] + right[:: max(1, len(right) // max(1, room))][:room]
    title = f"{len(shown)} of {len(answers)} verdicts ({len(wrong)} not as the folder says, those first)"
    columns = ("image", "truth", "decision", "probability", "source", "distance", "latency", "cached")
    table = Table(*columns, title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits 80 columns
    for answer in shown:
        v = answer.verdict
        style = "" if answer.decision_is_right and answer.source_is_right else "yellow"
        table.add_row(
            Path(v["event"]["subject"]).stem,
            answer.truth,
            v["generated"]["decision"],
            _number(v["generated"]["probability"], 3),
            v["attribution"]["source"] or "-",
            _number(v["attribution"]["distance"], 2),
            f"{v['timing_ms']['total']:.0f} ms",
            "yes" if v["cached"] else "no",
            style=style,
        )
    output = Console()
    output.print(table)
    total = max(1, len(answers))
    fakes = [a for a in answers if a.truth != "real"]
    named = sum(a.source_is_right for a in fakes) / max(1, len(fakes))
    output.print(
        f"{len(answers)} images, accuracy {sum(a.decision_is_right for a in answers) / total:.4f} "
        f"(source of generated images {named:.4f}), {sum(a.verdict['cached'] for a in answers)} cached, "
        f"{len(answers) / seconds:.0f} images/s",
        soft_wrap=True,
        highlight=False,
    )


def _sources(paths: Paths) -> dict[str, str]:
    return {"GENPRINT_FETCH__SOURCES": paths.test.resolve().as_uri()}


def _has_bundle(paths: Paths, recipe: Path) -> bool:
    if not (paths.bundle.is_dir() and paths.test.is_dir() and paths.recipe.is_file()):
        return False
    if paths.recipe.read_bytes() != recipe.read_bytes():
        console.print(f"making a new bundle: {paths.bundle} is of another recipe than {recipe}", style="yellow")
        return False
    try:
        bundle = load_bundle(paths.bundle)
    except BundleError as error:
        console.print(f"making a new bundle: {error}", style="yellow", markup=False)
        return False
    console.print(f"bundle from an earlier run: {bundle.manifest.name} {bundle.manifest.version} ({paths.bundle})")
    return True


def _step(title: str, *words: object) -> None:
    console.rule(title)
    _run(*words)


def _run(*words: object, env: dict[str, str] | None = None) -> None:
    """``genprint WORDS``, from this checkout."""
    subprocess.run([sys.executable, "-m", "genprint", *map(str, words)], cwd=ROOT, env=env, check=True)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)

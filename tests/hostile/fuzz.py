"""``make fuzz``: valid images and batches of records, harmed at random, through the worker's own code. Seeded.

Each image must be decoded or refused by an ``ImageError``, each offset answered once, by an event or a letter, within
its deadline and within the memory that was reserved for it. What is added without a meaning must change nothing that
comes out. Exit status 1 if it is otherwise; the bytes are then in build/fuzz/, and
``python -m tests.hostile.fuzz FILE`` tries them once more.
"""

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.hostile import fuzz_images, fuzz_records
from tests.hostile.fuzz_records import Reading, valid_fetches
from tests.hostile.images import valid_images
from tests.hostile.judge import Finding, Judge, Judged, Preparation, Spoil, Task
from tests.hostile.mutate import Mutation
from tests.worker.small_bundle import small_bundle

_DEADLINE_S = 10.0

Outcomes = dict[str, Counter[str]]
"""How often each reason came up, by what was harmed."""


@dataclass(frozen=True)
class Target:
    """What is harmed, and what the worker does with it."""

    name: str
    task: Task
    valid: dict[str, bytes]
    mutations: Callable[[int], Iterator[Mutation]]


def targets() -> dict[str, Target]:
    """All, by their names."""
    with tempfile.TemporaryDirectory() as work:
        models = small_bundle(Path(work) / "bundle").manifest.models
    images = Target("image", Preparation(models), valid_images(), fuzz_images.mutations)
    fetches = Target("fetch", Reading(), valid_fetches(), fuzz_records.mutations)
    return {target.name: target for target in (images, fetches)}


def fuzz(
    target: Target, count: int, seed: int, deadline_s: float, console: Console, spoil: Spoil | None = None
) -> tuple[Outcomes, list[Finding]]:
    """Outcomes, and what must not have happened."""
    outcomes: Outcomes = defaultdict(Counter)
    findings: list[Finding] = []
    made = list(islice(target.mutations(seed), count))
    with Judge(target.task, deadline_s) as judge:
        expected = dict(zip(target.valid, judge.judge(list(target.valid.values())), strict=True))
    with Judge(target.task, deadline_s, spoil) as judge:
        answers = judge.judge([mutation.data for mutation in made])
        shown = track(
            zip(made, answers, strict=True), target.name, count, console=console, disable=not console.is_terminal
        )
        for mutation, answer in shown:
            found = _compared(mutation, answer, expected[mutation.kind])
            if isinstance(found, Finding):
                findings.append(found)
                outcomes[mutation.kind]["FINDING"] += 1
            else:
                outcomes[mutation.kind][found.outcome] += 1
    return outcomes, findings


def _compared(mutation: Mutation, answer: Judged | Finding, expected: Judged | Finding) -> Judged | Finding:
    """The answer, or that it is another than that to the valid one."""
    if isinstance(answer, Finding) or not mutation.is_harmless:
        return answer
    if isinstance(expected, Judged) and (answer.outcome, answer.result) == (expected.outcome, expected.result):
        return answer
    return Finding(f"{answer.outcome}: not what comes out of {mutation.kind}, which means the same", mutation.data)


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="Findings to try again; then nothing is harmed.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 20_000,
    fetches: Annotated[int, typer.Option(min=1, help="How many batches of records.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="For one of them.")] = _DEADLINE_S,
    out: Annotated[Path, typer.Option(help="Where findings go.")] = Path("build/fuzz"),
) -> None:
    """Harm valid images and batches of records at random and see that the worker survives each."""
    console = Console()
    known = targets()
    if files:
        raise typer.Exit(_try_again(files, known, deadline_s, console))
    total = 0
    for target, times in zip(known.values(), (count, fetches), strict=True):
        outcomes, findings = fuzz(target, times, seed, deadline_s, console)
        console.print(_table(target, outcomes))
        for finding in findings:
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{hashlib.sha256(finding.data).hexdigest()[:16]}.{target.name}"
            path.write_bytes(finding.data)
            console.print(f"{path}: {finding.what}", highlight=False)
        console.print(f"{target.name}: {times:,} mutations, seed {seed}: {len(findings)} findings", highlight=False)
        total += len(findings)
    if total:
        again = f"make fuzz OPTIONS='--seed {seed} --count {count} --fetches {fetches}'"
        console.print(f"all again: {again}; one again: python -m tests.hostile.fuzz FILE", highlight=False)
        raise typer.Exit(1)


def _table(target: Target, outcomes: Outcomes) -> Table:
    reasons = sorted({reason for found in outcomes.values() for reason in found})
    table = Table(target.name, *reasons)
    for name, found in sorted(outcomes.items()):
        table.add_row(name, *(f"{found[reason]:,}" for reason in reasons))
    return table


def _try_again(files: list[Path], known: dict[str, Target], deadline_s: float, console: Console) -> int:
    """Say what becomes of each file; 1 if it must not."""
    wrong = False
    for path in files:
        with Judge(known[path.suffix[1:]].task, deadline_s) as judge:
            [answer] = judge.judge([path.read_bytes()])
        wrong |= isinstance(answer, Finding)
        console.print(f"{path}: {answer.what if isinstance(answer, Finding) else answer.outcome}", highlight=False)
    return int(wrong)


if __name__ == "__main__":
    typer.run(main)

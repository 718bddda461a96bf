"""``make fuzz``: valid images, harmed at random, through the worker's own preparation. Seeded; findings are kept.

Each mutation must be decoded or refused by an ``ImageError``, within its deadline and within the memory that was
reserved for it. Exit status 1 if one is not; its bytes are then in build/fuzz/.
"""

import hashlib
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.hostile.images import valid_images
from tests.hostile.judge import Finding, Judge, Spoil
from tests.worker.small_bundle import small_bundle

_DEADLINE_S = 10.0
_WORDS = (
    b"\xff\xd8", b"\xff\xd9", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe1", b"Exif\0\0",
    b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X",
    b"ANIM", b"ANMF", b"ALPH", b"GIF89a", b"\x21\xf9\x04", b"\x2c", b"BM", b"ftypavif", b"ftypavis", b"meta", b"iloc",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\x01", b"\xff\xff",
)  # fmt: skip


def mutations(seed: int) -> Iterator[tuple[str, bytes]]:
    """Format and bytes, without end."""
    rng = random.Random(seed)
    valid = valid_images()
    names = list(valid)
    while True:
        name = rng.choice(names)
        data = bytearray(valid[name])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 10, 30))):
            _mutate(rng, data, valid[rng.choice(names)])
        yield name, bytes(data)


def _mutate(rng: random.Random, data: bytearray, other: bytes) -> None:  # noqa: C901 - a list of changes
    """One change; headers are hit as often as all the rest."""
    if not data:
        data += other
    at = rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data))
    length = rng.choice((1, 2, 4, 8, 64, rng.randrange(1, 1 + len(data))))
    match rng.randrange(9):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = rng.randbytes(min(length, 256))
        case 4:
            data[at:at] = data[at : at + length]
        case 5:
            word = rng.choice(_WORDS)
            data[at : at + (len(word) if rng.random() < 0.7 else 0)] = word
        case 6:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            size = rng.choice((2, 4))
            masked = number & (1 << 8 * size) - 1
            data[at : at + size] = masked.to_bytes(size, rng.choice(("big", "little")))
        case 7:
            del data[at:]
        case 8:
            place = rng.randrange(len(other))
            data[at : at + length] = other[place : place + length]


def fuzz(
    count: int, seed: int, deadline_s: float, console: Console, spoil: Spoil | None = None
) -> tuple[dict[str, "Counter[str]"], list[Finding]]:
    """Outcomes by format, and what must not have happened."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as work:
        models = small_bundle(Path(work) / "bundle").manifest.models
    harmed = list(islice(mutations(seed), count))
    with Judge(models, deadline_s, spoil) as judge:
        answers = judge.judge([data for _, data in harmed])
        shown = track(
            zip(harmed, answers, strict=True), "mutations", count, console=console, disable=not console.is_terminal
        )
        for (name, _), answer in shown:
            if isinstance(answer, Finding):
                findings.append(answer)
                outcomes[name]["FINDING"] += 1
            else:
                outcomes[name][answer.outcome] += 1
    return outcomes, findings


def main(
    count: Annotated[int, typer.Option(min=1, help="How many mutations.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="For one image.")] = _DEADLINE_S,
    out: Annotated[Path, typer.Option(help="Where findings go.")] = Path("build/fuzz"),
) -> None:
    """Harm valid images at random and see that the worker survives each."""
    console = Console()
    outcomes, findings = fuzz(count, seed, deadline_s, console)
    reasons = sorted({reason for found in outcomes.values() for reason in found})
    table = Table("format", *reasons)
    for name, found in sorted(outcomes.items()):
        table.add_row(name, *(f"{found[reason]:,}" for reason in reasons))
    console.print(table)
    for finding in findings:
        out.mkdir(parents=True, exist_ok=True)
        path = out / hashlib.sha256(finding.data).hexdigest()[:16]
        path.write_bytes(finding.data)
        console.print(f"{path}: {finding.what}", highlight=False)
    console.print(f"{count:,} mutations, seed {seed}: {len(findings)} findings")
    if findings:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

"""`python -m deploy.image build` and `run`: the CPU worker's image, without a container engine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.image.build import IMAGE, Built, build
from deploy.image.container import Container
from deploy.image.errors import ImageError, UnavailableError
from deploy.image.programs import LOG, require_programs
from deploy.image.storage import exists

app = typer.Typer(help="The CPU worker's image, without a container engine.", no_args_is_help=True)
progress = Console(stderr=True)  # standard output carries the result alone


@app.command("build")
def build_command(
    fresh: Annotated[bool, typer.Option("--fresh", help="Everything anew, with Debian's latest updates.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Build the image and write its SBOM; what has not changed since the last time is taken over."""
    with _one_line_errors(), progress.status(f"Building; the whole story goes to {LOG}") as status:
        built = build(fresh=fresh, say=lambda text: status.update(f"{text} …"))
    if as_json:
        print(json.dumps(_row(built)))
        return
    table = Table(show_header=False)
    for name, value in _row(built).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)


@app.command(context_settings={"allow_interspersed_args": False})  # what follows the first word is the worker's
def run(
    arguments: Annotated[list[str] | None, typer.Argument(help="Of the worker, in place of `run`.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Mounted at /bundle.", exists=True, file_okay=False)] = None,
) -> None:
    """Run the image in the foreground: its own user, a read-only root, no privileges. GENPRINT_* are passed on."""
    with _one_line_errors():
        require_programs(progress.print)
        if not exists(IMAGE):
            raise UnavailableError(f"there is no image {IMAGE}; python -m deploy.image build makes it")
        mounts = {"/bundle": bundle} if bundle else {}
        settings = {name: value for name, value in os.environ.items() if name.startswith("GENPRINT_")}
        if bundle:
            settings.pop("GENPRINT_BUNDLE", None)  # a place of this machine
        with Container(IMAGE, arguments or (), environment=settings, mounts=mounts) as container:
            child = subprocess.Popen(container.command)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda received, _: child.send_signal(received))
            status = child.wait()
    raise typer.Exit(status)


def _row(built: Built) -> dict[str, str | int]:
    return {
        "image": built.image,
        "image_id": built.image_id,
        "size_bytes": built.size_bytes,
        "sbom": str(built.sbom),
        "components": built.components,
        "seconds": round(built.seconds),
    }


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        progress.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    app(prog_name="python -m deploy.image")

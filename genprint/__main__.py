"""``genprint``: the worker's commands by their names, ``genprint trainer ...`` and ``genprint exporter ...``.

A part is imported when one of its commands is called: help, completion and ``--version`` work without its libraries.
"""

import os
import signal
import sys

if os.getpid() == 1:  # in a container, where a signal without a handler is lost: before anything that takes time
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda number, _: sys.exit(128 + number))

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

EXTRAS: Final = {
    "trainer": "genprint[trainer]",
    "exporter": "genprint[exporter]",
}
"""What to install for the commands of a part; the other commands are the worker's."""
WORKER_EXTRA: Final = "genprint[worker-cpu]"
GPU_EXTRA: Final = "genprint[worker-cuda]"
_OWN: Final = {"bundle", "exporter", "genprint", "trainer", "worker"}


class Part(TyperGroup):
    """The commands of a part, whose module is imported when they are needed."""

    def __init__(self, module: str, **attributes: Any) -> None:
        attributes.setdefault("no_args_is_help", True)
        super().__init__(**attributes)
        self._module = module

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order of their help."""
        return self._group.list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        return self._group.get_command(ctx, cmd_name)

    @cached_property
    def _group(self) -> TyperGroup:
        group = typer.main.get_command(import_module(self._module).app)
        assert isinstance(group, TyperGroup)
        return group


PARTS: Final = {
    "trainer": Part(
        "trainer.__main__",
        name="trainer",
        help="Make training data, train and evaluate detectors.",
    ),
    "exporter": Part("exporter.__main__", name="exporter", help="Turn trained networks into bundles and inspect them."),
}


class Genprint(Part):
    """The worker's commands, and the other parts beside them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("worker.__main__", **attributes)

    def list_commands(self, ctx: Any) -> list[str]:
        """The worker's first."""
        return [*super().list_commands(ctx), *PARTS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command of the worker, or a part."""
        return PARTS.get(cmd_name) or super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; where a library is missing, say what to install."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package, _, module = (error.name or "").partition(".")
            if not package or (package in _OWN and module):
                raise  # nothing to install: a fault in the code
            part = ctx.invoked_subcommand
            advice = f"pip install '{EXTRAS.get(part, WORKER_EXTRA)}'"
            if part not in EXTRAS:
                advice += f" (with a GPU: '{GPU_EXTRA}')"
            sys.stderr.write(f"genprint {part}: {error.name} is not installed; {advice}\n")
            raise typer.Exit(2) from error


app = typer.Typer(
    name="genprint",
    cls=Genprint,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # half of the time of `genprint --help` would be the import of rich's Markdown
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from genprint.version import version_report

        sys.stdout.write(version_report())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show versions and devices, as for a bug report."
        ),
    ] = False,
) -> None:
    """Streaming moderation of generated images: classify files, serve a stream, train and export detectors."""


def main() -> None:
    """The console script."""
    # Not above: ``python -m`` would take a file ``bundle.py`` of the user's for it.
    from bundle.standard_streams import run_command

    run_command("genprint", lambda: app(prog_name="genprint"))


if __name__ == "__main__":
    # ``python -m`` looks into the working directory first, where a file ``worker.py`` of the user's may lie.
    here = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(here) if Path(place or ".").resolve() == Path.cwd() else place for place in sys.path]
    main()

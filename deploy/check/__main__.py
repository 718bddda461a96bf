"""``python -m deploy.check``: overlays of deploy/kubernetes against schemas, Pod Security and the worker itself."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.check import prometheus_rule
from deploy.check.kubernetes import check_rendered, overlays
from deploy.check.manifests import RenderError, render

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def main(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(help="Overlays; those of deploy/kubernetes if none is named.", file_okay=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Make the PrometheusRule anew from deploy/prometheus.")
    ] = False,
) -> None:
    """Render overlays and say what is wrong with them. Exit status 1 if something is."""
    if write:
        prometheus_rule.PATH.write_text(prometheus_rule.prometheus_rule())
    problems: list[str] = []
    for directory in directories or overlays():
        try:
            overlay = render(directory)
        except RenderError as error:
            problems.append(str(error))
            continue
        found = check_rendered(overlay)
        console.print(f"{overlay.name}: {len(overlay.manifests)} objects, {len(found)} problems", highlight=False)
        problems += map(str, found)
    if not prometheus_rule.is_current():
        problems.append(f"{prometheus_rule.PATH.name}: not what deploy/prometheus says; python -m deploy.check --write")
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


if __name__ == "__main__":
    app(prog_name="python -m deploy.check")

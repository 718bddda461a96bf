"""The system calls that a container may make: the default profile, which Kubernetes calls RuntimeDefault.

The file is written for engines, with conditions on capabilities and machines; a runtime wants them decided.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
"""A file of the Debian package golang-github-containers-common, which buildah brings along."""

_MACHINES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
"""What the kernel calls a machine, and what the profile does."""
_FIELDS = ("names", "action", "args", "errnoRet")


def without_capabilities(machine: str, path: Path = PROFILE) -> dict[str, Any]:
    """``linux.seccomp`` of a runtime's specification, for a process that has no capability."""
    profile = json.loads(path.read_text())
    name, architecture = _MACHINES[machine]
    others = [entry["subArchitectures"] for entry in profile["archMap"] if entry["architecture"] == architecture]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture, *(other for entry in others for other in entry)],
        "syscalls": list(_rules(profile, name)),
    }


def _rules(profile: Mapping[str, Any], machine: str) -> Iterator[dict[str, Any]]:
    for rule in profile["syscalls"]:
        only, never = rule.get("includes") or {}, rule.get("excludes") or {}
        if only.get("caps") or machine not in only.get("arches", [machine]) or machine in never.get("arches", []):
            continue
        yield {field: rule[field] for field in _FIELDS if rule.get(field)}

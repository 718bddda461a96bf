"""The environment that the worker would find is one that it accepts, and holds no secret."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deploy.check.manifests import Manifest, Overlay, PodTemplate, Problem, at
from worker.errors import StartupError
from worker.settings import PREFIX, Settings, SettingsSection, load_settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
WORKER = "worker"
"""Name of the worker's container."""

_SECRETS = {"GENPRINT_REDIS__URL": "rediss://user:password@redis.example:6379/0"}
"""What stands for a secret while its setting is checked; anything will do for the others."""
_REST_BYTES = 2**30
"""Python, ONNX Runtime, a model of ordinary size."""
_DECODER_BYTES = 128 * 2**20
"""Of each decoder, besides `images.memory_bytes`: program and libraries 60 MiB, and memory shared with the worker."""
_OWN_VOLUMES = {"emptyDir", "ephemeral"}
"""Kinds of volumes that live as long as their pod and are no other's."""
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def workers(overlay: Overlay) -> Iterator[tuple[PodTemplate, str, Mapping[str, Any]]]:
    """Containers of the worker, with the paths of their fields."""
    for pods in overlay.pod_templates():
        for path, container in pods.containers():
            if container["name"] == WORKER:
                yield pods, path, container


def environment(overlay: Overlay, pods: PodTemplate, container: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a container, with stand-ins for what only the cluster knows."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        config = overlay.find("ConfigMap", at(source, "configMapRef.name", ""))
        found |= config.get("data", {}) if config else {}
    for variable in container.get("env", ()):
        name = variable["name"]
        if at(variable, "valueFrom.fieldRef.fieldPath") == "metadata.name":
            found[name] = f"{pods.owner.name}-0"
        elif "valueFrom" in variable:
            found[name] = _SECRETS.get(name, "secret")
        else:
            found[name] = variable.get("value", "")
    return found


def settings(overlay: Overlay, pods: PodTemplate, container: Mapping[str, Any]) -> Settings | None:
    """The worker's settings, None where it would refuse them."""
    try:
        return load_settings(environment=environment(overlay, pods, container))
    except StartupError:
        return None


def check_configuration(overlay: Overlay) -> Iterator[Problem]:
    """Settings, secrets, mounted files, memory."""
    for config in overlay.of("ConfigMap"):
        for variable in config.get("data", {}):
            yield from _config_key(config, variable)
    for pods in overlay.pod_templates():
        yield from _secrets(pods)
        if WORKER not in [container["name"] for _, container in pods.containers()]:
            yield pods.owner.problem(f"{pods.PATH}.containers", f"none is called {WORKER}: nothing is known of it here")
    for pods, path, container in workers(overlay):
        variables = environment(overlay, pods, container)
        try:
            found = load_settings(environment=variables)
        except StartupError as error:
            yield pods.owner.problem(f"{path}.env", f"the worker would not start: {error}")
            continue
        yield from _worker(pods, path, container, found)


def _config_key(config: Manifest, variable: str) -> Iterator[Problem]:
    if variable not in _variables():
        yield config.problem(f"data.{variable}", "no such setting")
    elif _is_secret(variable):
        yield config.problem(f"data.{variable}", "a secret: it belongs in a Secret")


def _worker(pods: PodTemplate, path: str, container: Mapping[str, Any], found: Settings) -> Iterator[Problem]:
    owner = pods.owner
    identity: Mapping[str, Any] = next(
        (v for v in container.get("env", ()) if v["name"] == "GENPRINT_KAFKA__INSTANCE_ID"), {}
    )
    if owner.kind == "StatefulSet" and at(identity, "valueFrom.fieldRef.fieldPath") != "metadata.name":
        yield owner.problem(f"{path}.env[GENPRINT_KAFKA__INSTANCE_ID]", "expected the pod's name: metadata.name")
    if "decode_processes" not in found.images.model_fields_set:
        yield owner.problem(f"{path}.env", "images.decode_processes is not set: it would count the node's cores")
    for name, file in _paths(found):
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
        if not any(file.is_relative_to(mount) for mount in mounts):
            yield owner.problem(f"{path}.volumeMounts", f"{name} is {file}, where nothing is mounted")
    yield from _journal(pods, path, container, found)
    for mount in container.get("volumeMounts", ()):
        if found.bundle is not None and found.bundle.is_relative_to(mount["mountPath"]) and not mount.get("readOnly"):
            yield owner.problem(f"{path}.volumeMounts[{mount['name']}].readOnly", "expected true for the bundle")
    needed = found.memory_bytes + found.images.decode_processes * _DECODER_BYTES + _REST_BYTES
    limit = bytes_of(str(at(container, "resources.limits.memory", "0")))
    if limit < needed:
        why = f"{limit} bytes: the settings allow the worker {needed}"
        yield owner.problem(f"{path}.resources.limits.memory", why)
    is_cuda = found.inference.device == "cuda"
    if is_cuda != bool(at(container, "resources.limits", {}).get("nvidia.com/gpu")):
        why = f"inference.device is {found.inference.device}"
        yield owner.problem(f"{path}.resources.limits[nvidia.com/gpu]", why)


def _journal(pods: PodTemplate, path: str, container: Mapping[str, Any], found: Settings) -> Iterator[Problem]:
    """It outlives the container and is the pod's own: two workers cannot use one file."""
    file = found.pipeline.journal
    if file is None:
        why = "expected a file: without it an event that kills its worker kills all"
        yield pods.owner.problem(f"{path}.env[GENPRINT_PIPELINE__JOURNAL]", why)
        return
    mounts = [mount for mount in container.get("volumeMounts", ()) if file.is_relative_to(mount["mountPath"])]
    for mount in sorted(mounts, key=lambda mount: len(mount["mountPath"]))[-1:]:  # the one that is seen there
        field = f"{path}.volumeMounts[{mount['name']}]"
        volumes = [volume for volume in pods.spec.get("volumes", ()) if volume["name"] == mount["name"]]
        if all(_OWN_VOLUMES.isdisjoint(volume) for volume in volumes):
            yield pods.owner.problem(field, f"pipeline.journal is on it: expected {' or '.join(sorted(_OWN_VOLUMES))}")
        if mount.get("readOnly"):
            yield pods.owner.problem(f"{field}.readOnly", "pipeline.journal is written there")


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as `3Gi`; 0 for anything else."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity)
    return int(match[1]) * _UNITS[match[2]] if match and match[2] in _UNITS else 0


def _secrets(pods: PodTemplate) -> Iterator[Problem]:
    """No secret is written out, and each that is asked for is in the table of the documentation."""
    for path, container in pods.containers():
        for variable in container.get("env", ()):
            field = f"{path}.env[{variable['name']}]"
            if "value" in variable and _is_secret(variable["name"]):
                yield pods.owner.problem(field, "a secret, written out: expected a secretKeyRef")
            if reference := at(variable, "valueFrom.secretKeyRef"):
                yield from undocumented(pods.owner, field, reference["name"], reference["key"])
    for volume in pods.spec.get("volumes", ()):
        for item in at(volume, "secret.items", ()):
            field = f"{pods.PATH}.volumes[{volume['name']}]"
            yield from undocumented(pods.owner, field, volume["secret"]["secretName"], item["key"])


def undocumented(owner: Manifest, field: str, secret: str, key: str) -> Iterator[Problem]:
    """A Secret's key that no table row of docs/kubernetes.md names."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| `{secret}` |")]
    if not any(f"`{key}`" in row for row in rows):
        yield owner.problem(field, f"Secret {secret}, key {key}: not in the table of docs/{DOCUMENT.name}")


@cache
def _variables() -> dict[str, Any]:
    """Types of all settings by their variable."""
    return {PREFIX + name.upper().replace(".", "__"): kind for name, kind in _fields(Settings, "")}


def _fields(section: type[SettingsSection], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsSection):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def _is_secret(variable: str) -> bool:
    kind = _variables().get(variable)
    return SecretStr in (kind, *getattr(kind, "__args__", ()))


def _paths(section: SettingsSection, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Settings that name files."""
    for name, value in section:
        if isinstance(value, SettingsSection):
            yield from _paths(value, f"{prefix}{name}.")
        elif isinstance(value, Path):
            yield prefix + name, value

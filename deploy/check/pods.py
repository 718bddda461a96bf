"""Every pod: Pod Security "restricted" and a little more, said of each container by itself.

https://kubernetes.io/docs/concepts/security/pod-security-standards; the namespace asks the cluster for the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.check.manifests import Manifest, Overlay, PodTemplate, Problem, at

PROFILE = "restricted"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",  # since 1.33
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SECCOMP = ("RuntimeDefault", "Localhost")


def check_pods(overlay: Overlay) -> Iterator[Problem]:
    """Pod Security, images, resources."""
    for namespace in overlay.of("Namespace"):
        if namespace.get("metadata.labels", {}).get(_ENFORCE) != PROFILE:
            yield namespace.problem(f"metadata.labels[{_ENFORCE}]", f"expected {PROFILE}")
    for pods in overlay.pod_templates():
        yield from _pod(pods)
        for path, container in pods.containers():
            yield from _security(pods, path, container)
            yield from _image(pods.owner, f"{path}.image", container.get("image", ""))
            yield from _resources(pods.owner, f"{path}.resources", container.get("resources", {}))


def _pod(pods: PodTemplate) -> Iterator[Problem]:
    path, owner, spec = pods.PATH, pods.owner, pods.spec
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield owner.problem(f"{path}.{key}", "the node's own is not for pods")
    if spec.get("automountServiceAccountToken") is not False:
        yield owner.problem(f"{path}.automountServiceAccountToken", "expected false: nothing here talks to the API")
    if spec.get("enableServiceLinks") is not False:
        yield owner.problem(
            f"{path}.enableServiceLinks",
            "expected false: variables of a Service whose name begins with genprint- stop us",
        )
    for volume in spec.get("volumes", ()):
        for kind in sorted(volume.keys() - {"name"} - _VOLUMES):
            yield owner.problem(f"{path}.volumes[{volume['name']}].{kind}", f"not a volume of the profile {PROFILE}")
        if "image" in volume:
            field = f"{path}.volumes[{volume['name']}].image.reference"
            yield from _image(owner, field, volume["image"].get("reference", ""))
    for constraint in ("runAsNonRoot", "seccompProfile", "runAsUser"):
        if constraint not in spec.get("securityContext", {}):
            yield owner.problem(f"{path}.securityContext.{constraint}", "expected for the whole pod")


def _security(pods: PodTemplate, path: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    """A container's own word counts before its pod's, for those that both may say."""
    own = container.get("securityContext", {})
    effective = {**pods.spec.get("securityContext", {}), **own}
    field = f"{path}.securityContext"
    expected = [
        ("allowPrivilegeEscalation", own.get("allowPrivilegeEscalation") is False, "expected false"),
        ("privileged", not own.get("privileged"), "not allowed"),
        ("readOnlyRootFilesystem", own.get("readOnlyRootFilesystem") is True, "expected true"),
        ("runAsNonRoot", effective.get("runAsNonRoot") is True, "expected true"),
        ("runAsUser", effective.get("runAsUser") != 0, "0 is root"),
        ("seccompProfile.type", at(effective, "seccompProfile.type") in _SECCOMP, f"expected {' or '.join(_SECCOMP)}"),
        ("capabilities.drop", "ALL" in at(own, "capabilities.drop", ()), "expected ALL"),
        ("capabilities.add", not at(own, "capabilities.add"), "none is needed"),
        ("procMount", own.get("procMount", "Default") == "Default", "expected Default"),
    ]
    yield from (pods.owner.problem(f"{field}.{name}", why) for name, is_met, why in expected if not is_met)
    for port in container.get("ports", ()):
        if port.get("hostPort"):
            yield pods.owner.problem(f"{path}.ports[{port.get('name')}].hostPort", "the node's ports are not for pods")


def _image(owner: Manifest, field: str, image: str) -> Iterator[Problem]:
    """An image that names what it is: a tag other than `latest`, or a digest."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest"):
        yield owner.problem(field, f"{image or 'none'}: expected a tag other than latest, or a digest")


def _resources(owner: Manifest, field: str, resources: Mapping[str, Any]) -> Iterator[Problem]:
    for path in ("requests.cpu", "requests.memory", "requests.ephemeral-storage", "limits.memory"):
        if at(resources, path) is None:
            yield owner.problem(f"{field}.{path}", "expected")
    if at(resources, "requests.memory") != at(resources, "limits.memory"):
        yield owner.problem(f"{field}.requests.memory", "expected the limit: what is not reserved is taken away")

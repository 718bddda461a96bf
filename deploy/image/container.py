"""One run of an image by runc, with what Kubernetes calls "restricted", and no place to write but /tmp.

It is the runtime under Docker and Kubernetes; the engines above it, which want control groups of their own or a daemon,
are not needed. The network is this machine's.
"""

import json
import platform
import secrets
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.image.programs import ask
from deploy.image.seccomp import without_capabilities
from deploy.image.storage import mounted

_TMP_BYTES = 64 * 2**20
_NAMESPACES = ("ipc", "mount", "pid", "uts")
_CAPABILITIES = ("ambient", "bounding", "effective", "inheritable", "permitted")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What the image says about how it is run."""

    uid: int
    gid: int
    environment: tuple[str, ...]
    command: tuple[str, ...]
    """Entry point."""
    arguments: tuple[str, ...]
    """Unless others are given."""
    directory: str
    stop_signal: str
    health_check: tuple[str, ...]
    """Without its first word, CMD."""


def image_config(image: str) -> ImageConfig:
    """Read it from the storage."""
    inspected = json.loads(ask(["buildah", "inspect", "--type", "image", image]))["Docker"]["config"]
    uid, _, gid = inspected["User"].partition(":")
    return ImageConfig(
        int(uid),
        int(gid),
        tuple(inspected["Env"]),
        tuple(inspected["Entrypoint"]),
        tuple(inspected["Cmd"]),
        inspected["WorkingDir"],
        inspected["StopSignal"],
        tuple(inspected["Healthcheck"]["Test"][1:]),
    )


class Container:
    """An image made ready to run; ``command`` runs it, and its exit status is that of the program inside.

    SIGTERM to that command reaches the program; SIGKILL does not. Leaving the block ends whatever still runs.

    Args:
        image: in the storage.
        arguments: in place of the image's.
        environment: on top of the image's.
        mounts: directories of this machine by their place in the container, read-only.
    """

    def __init__(
        self,
        image: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = f"genprint-{secrets.token_hex(6)}"
        self.image = image
        self._arguments = tuple(arguments)
        self._environment = dict(environment or {})
        self._mounts = dict(mounts or {})
        self._folder = Path()
        self._held = ExitStack()

    @property
    def specification(self) -> Path:
        """config.json of the runtime; read when the command starts."""
        return self._folder / "config.json"

    @property
    def command(self) -> list[str]:
        """Program and arguments that run the container in the foreground."""
        return ["runc", "run", "--bundle", str(self._folder), self.name]

    def execute(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run a program in the container that runs, as its user."""
        inside = ["runc", "exec", self.name, *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=300, check=False)

    def __enter__(self) -> Self:
        config = image_config(self.image)
        with ExitStack() as held:
            self._folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="genprint-container-")))
            root = held.enter_context(mounted(self.image))
            ask(["runc", "spec", "--bundle", str(self._folder)])
            default = json.loads(self.specification.read_text())
            self.specification.write_text(json.dumps(self._specification(default, config, root)))
            held.callback(self._delete)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def _delete(self) -> None:
        command = ["runc", "delete", "--force", self.name]
        subprocess.run(command, capture_output=True, check=False)

    def _specification(self, default: dict[str, Any], config: ImageConfig, root: Path) -> dict[str, Any]:
        """The runtime's own default, less what a worker needs no more than an intruder does."""
        environment = [*config.environment, *(f"{name}={value}" for name, value in self._environment.items())]
        process = {
            "terminal": False,
            "user": {"uid": config.uid, "gid": config.gid},
            "args": [*config.command, *(self._arguments or config.arguments)],
            "env": environment,
            "cwd": config.directory,
            "capabilities": dict.fromkeys(_CAPABILITIES, ()),
            "noNewPrivileges": True,
        }
        mounts = [mount for mount in default["mounts"] if mount["type"] != "cgroup"]
        mounts.append(
            {
                "destination": "/tmp",  # noqa: S108 - in the container, and its own
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "nodev", "mode=1777", f"size={_TMP_BYTES}"],
            }
        )
        lent = {"/etc/hosts": Path("/etc/hosts"), "/etc/resolv.conf": Path("/etc/resolv.conf"), **self._mounts}
        options = ["rbind", "ro", "nosuid", "nodev"]
        for place, source in lent.items():
            mount = {"destination": place, "type": "bind", "source": str(source.resolve()), "options": options}
            mounts.append(mount)
        linux = {key: default["linux"][key] for key in ("maskedPaths", "readonlyPaths")}
        linux["namespaces"] = [{"type": kind} for kind in _NAMESPACES]
        linux["seccomp"] = without_capabilities(platform.machine())
        return {
            "ociVersion": default["ociVersion"],
            "hostname": self.name,
            "root": {"path": str(root), "readonly": True},
            "process": process,
            "mounts": mounts,
            "linux": linux,
        }

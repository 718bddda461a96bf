"""From an empty folder to the worker's image: a Debian from debootstrap, the Dockerfile by buildah, the SBOM.

Images lie in the system's own storage, where podman and buildah see them. Whatever is expensive is kept there: the base
until it is asked for anew, the layers of the Dockerfile until something in them changes.
"""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.image.access import debian_access, pip_access
from deploy.image.programs import LOG, ask, require_programs, run
from deploy.image.sbom import write_sbom
from deploy.image.storage import exists, mounted

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "worker.Dockerfile"
SBOM = ROOT / "build" / "image" / "worker-cpu.cdx.json"
RELEASE = "bookworm"
"""Has Python 3.11."""
BASE = f"localhost/genprint/base:{RELEASE}"
IMAGE = "localhost/genprint/worker:cpu"
SITE_PACKAGES = "opt/genprint/lib/python3.11/site-packages"

_LEFT_OVERS = ("var/cache/apt", "var/lib/apt/lists", "var/log")
_OF_THIS_MACHINE = ("etc/hostname", "etc/resolv.conf")
"""Copied by debootstrap."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image and what was found in it."""

    image: str
    """The image's name; the next build gives it to its own image."""
    image_id: str
    """The digest of the image."""
    size_bytes: int
    """Size of all files; compressed layers are smaller."""
    sbom: Path
    components: int
    """Packages that the SBOM lists."""
    seconds: float


def build(*, fresh: bool, say: Callable[[str], object]) -> Built:
    """Build the CPU worker's image, and its base unless there is one.

    Args:
        fresh: make everything anew, with the latest security updates of Debian.
        say: told what begins.

    Raises:
        UnavailableError: this machine lacks what is needed and it cannot be installed.
        FailedError: a program failed.
    """
    started = time.monotonic()
    LOG.unlink(missing_ok=True)
    require_programs(say)
    if fresh or not exists(BASE):
        say(f"Making the base, Debian {RELEASE} (once, about a minute)")
        make_base()
    say("Building the image")
    image_id = build_worker(fresh=fresh)
    say("Writing the SBOM")
    with mounted(image_id) as root:
        components = write_sbom(root, root / SITE_PACKAGES, IMAGE, SBOM)
        size_bytes = tree_bytes(root)
    return Built(IMAGE, image_id, size_bytes, SBOM, components, time.monotonic() - started)


def make_base() -> None:
    """Commit a minimal Debian as ``BASE``, with the packages that debootstrap trusts by their signature."""
    access = debian_access(RELEASE)
    container = ask(["buildah", "from", "scratch"])
    try:
        root = Path(ask(["buildah", "mount", container]))
        mirror = [access.mirror] if access.mirror else []
        run(["debootstrap", "--variant=minbase", RELEASE, str(root), *mirror])
        for left_over in _LEFT_OVERS:
            empty(root / left_over)
        # A build that was interrupted is thrown away: dpkg need not wait for the disk.
        (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        # What apt knows is lent to each build instead.
        for name in (*_OF_THIS_MACHINE, *(["etc/apt/sources.list"] if access.sources else [])):
            (root / name).write_text("")
        ask(["buildah", "umount", container])
        ask(["buildah", "config", "--cmd", "/bin/bash", container])
        run(["buildah", "commit", "--quiet", "--format", "docker", container, BASE])
    finally:
        ask(["buildah", "rm", container])


def build_worker(*, fresh: bool) -> str:
    """Build ``IMAGE`` on ``BASE``; returns its id."""
    with tempfile.TemporaryDirectory(prefix="genprint-build-") as lent:
        run(
            [
                *("buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never"),
                *("--format", "docker"),  # OCI's own format has no HEALTHCHECK
                *("--layers", *(["--no-cache"] if fresh else [])),
                *("--build-arg", f"BASE={BASE}", "--build-arg", "DEVICE=cpu"),
                *lend_access(Path(lent)),
                *("--file", str(DOCKERFILE), "--tag", IMAGE, "--iidfile", f"{lent}/id", str(ROOT)),
            ]
        )
        return (Path(lent) / "id").read_text().removeprefix("sha256:")


def lend_access(folder: Path) -> Iterator[str]:
    """Options of ``buildah bud``: how to reach Debian and the Python index, in private files in ``folder``."""
    debian, pip = debian_access(RELEASE), pip_access()
    lent = {
        "/etc/apt/sources.list": (folder / "sources.list", debian.sources),
        "/etc/apt/apt.conf.d/99lent": (folder / "apt.conf", debian.settings),
    }
    for target, (path, text) in lent.items():
        if text:
            path.write_text(text)
            path.chmod(0o644)  # apt reads them as a user of its own; the folder is closed to others
            yield f"--volume={path}:{target}:ro"
    conf = folder / "pip.conf"
    conf.write_text(pip.conf)
    yield f"--secret=id=pip_conf,src={conf}"
    if pip.certificates is not None:
        yield f"--secret=id=certificates,src={pip.certificates}"


def tree_bytes(root: Path) -> int:
    """Bytes of all files below, each counted once however many names it has."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            status = (Path(folder) / name).lstat()
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def empty(folder: Path) -> None:
    """Remove everything inside."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()

"""How this machine reaches Debian's archive and its Python index: read when an image is built, and lent to the build.

Addresses, proxies, passwords and certificates reach the build as mounts and secrets, which leave nothing in a layer.
"""

import ast
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.image.errors import UnavailableError
from deploy.image.programs import apt_get, ask

CERTIFICATES_IN_BUILD = "/etc/pip.certificates"
"""Where the Dockerfiles mount the secret of that name."""

_ARCHIVES = "$(ORIGIN)\t$(CODENAME)\t$(COMPONENT)\t$(REPO_URI)"
_APT_SETTING = re.compile(r"Acquire::(?:https?|Check-Date|Check-Valid-Until|Retries|Force-?IPv[46])\b")
_PIP_SETTINGS = frozenset(
    {"default-timeout", "extra-index-url", "find-links", "index-url", "no-index", "proxy", "retries", "timeout"}
    | {"trusted-host"}
)


@dataclass(frozen=True, slots=True)
class DebianAccess:
    """The archive as apt on this machine knows it."""

    mirror: str | None
    """The mirror of the release itself; None if apt has other sources, and debootstrap's own default may do."""
    sources: str
    """sources.list for the same release with its updates; empty likewise."""
    settings: str
    """apt.conf: proxies and the like."""


@dataclass(frozen=True, slots=True)
class PipAccess:
    """pip's index as pip on this machine knows it."""

    conf: str
    """pip.conf for the build."""
    certificates: Path | None
    """Authorities that pip is to trust, in place of those that it brings along."""


def debian_access(release: str) -> DebianAccess:
    """Read apt's lists and configuration on this machine; apt-get update comes first if they say nothing."""
    listing = ["apt-get", "indextargets", "--format", _ARCHIVES, "Created-By: Packages"]
    mirror, sources = read_archives(ask(listing), release)
    if mirror is None:  # without lists apt does not know whose archives they are
        apt_get("update")
        mirror, sources = read_archives(ask(listing), release)
    settings = ask(["apt-config", "dump", "--format", '%f "%v";%n', "Acquire"])
    return DebianAccess(mirror, sources, read_apt_settings(settings))


def read_archives(listed: str, release: str) -> tuple[str | None, str]:
    """The mirror of ``release`` and sources.list, of lines of origin, codename, component and address.

    Only Debian's own: a third party's key would be missing in the image.
    """
    wanted = (release, f"{release}-updates", f"{release}-security")
    found: dict[str, str] = {}
    for line in listed.splitlines():
        origin, codename, component, address = line.split("\t")
        if origin == "Debian" and codename in wanted and component == "main":
            found.setdefault(codename, address)
    sources = "".join(f"deb {found[codename]} {codename} main\n" for codename in wanted if codename in found)
    return found.get(release), sources


def read_apt_settings(dumped: str) -> str:
    """Those of ``apt-config dump`` that say how to reach an archive; not those that name programs or files."""
    return "".join(
        f"{line}\n" for line in dumped.splitlines() if _APT_SETTING.match(line) and not line.endswith(' "";')
    )


def pip_access() -> PipAccess:
    """Read pip's configuration: its files, and ``PIP_*`` variables, which win.

    Raises:
        UnavailableError: pip is set to trust certificates that are not there.
    """
    return read_pip_settings(ask([sys.executable, "-m", "pip", "config", "list"]))


def read_pip_settings(listed: str) -> PipAccess:
    """Parse what ``pip config list`` prints."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    settings = found["global"] | found["install"] | found[":env:"]
    certificates = Path(settings["cert"]) if settings.get("cert") else None
    if certificates is not None and not certificates.is_file():
        raise UnavailableError(f"pip is set to trust the certificates in {certificates}, and there is no such file")
    return PipAccess(_pip_conf(settings, certificates), certificates)


def _pip_conf(settings: Mapping[str, str], certificates: Path | None) -> str:
    lines = ["[global]"]
    for key, value in sorted(settings.items()):
        # A folder of this machine is not there in the build.
        words = [word for word in value.split() if key != "find-links" or "://" in word]
        if key in _PIP_SETTINGS and words:
            lines.append(f"{key} = " + "\n    ".join(words))
    if certificates is not None:
        lines.append(f"cert = {CERTIFICATES_IN_BUILD}")
    return "\n".join(lines) + "\n"

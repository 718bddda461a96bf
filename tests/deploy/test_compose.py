"""deploy/compose.yaml: valid by Compose's own schema, and in agreement with the worker and with the files it mounts."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.check.lifecycle import ending_s
from worker.errors import StartupError
from worker.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DEFAULTS = DEPLOY / ".env"

Document = dict[str, Any]
Change = Callable[[Document], object]

PINNED = re.compile(r"[a-z0-9/_-]+:v?[0-9]+\.[0-9]+\.[0-9]+")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY")
SECRET_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
ONCE = {"no", "on-failure"}


@pytest.fixture
def compose() -> Document:
    return read(COMPOSE)


def read(path: Path) -> Document:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def problems(compose: Document) -> list[str]:
    return [
        f"{name}: {problem}"
        for name, service in compose["services"].items()
        for check in CHECKS
        for problem in check(compose, service)
    ]


def images(_: Document, service: Document) -> Iterator[str]:
    built = service.get("build")
    if built is None and not PINNED.fullmatch(service.get("image", "")):
        yield f"image {service.get('image')} is not pinned"
    if built is not None and not (COMPOSE.parent / built["context"] / built["dockerfile"]).is_file():
        yield f"no such file: {built['dockerfile']}"


def settings(_: Document, service: Document) -> Iterator[str]:
    own = {name: value for name, value in service.get("environment", {}).items() if name.startswith(PREFIX)}
    try:
        load_settings(environment=own)
    except StartupError as error:
        yield str(error)


def places(compose: Document, service: Document) -> Iterator[str]:
    """Brokers and cache are services of this file, at a port that the broker tells clients."""
    own = load_settings_or_none(service)
    if own is None or service.get("build") is None:
        return
    kafka = compose["services"]["kafka"]["environment"]
    advertised = re.findall(r"[A-Z]+://([^,]+)", kafka["KAFKA_ADVERTISED_LISTENERS"])
    if own.kafka.bootstrap_servers not in advertised:
        yield f"broker {own.kafka.bootstrap_servers} is not among {advertised}"
    cache = own.redis.url.get_secret_value() if own.redis.url else ""
    if re.fullmatch(r"redis://(\w+):6379/0", cache) is None or cache.split("/")[2][:-5] not in compose["services"]:
        yield "the cache is no service of this file"
    if int(kafka["KAFKA_MESSAGE_MAX_BYTES"]) < own.kafka.max_message_bytes:
        yield "the broker refuses messages that the worker sends"


def load_settings_or_none(service: Document) -> Settings | None:
    try:
        return load_settings(environment=service.get("environment", {}))
    except StartupError:
        return None


def mounts(compose: Document, service: Document) -> Iterator[str]:
    for volume in service.get("volumes", []):
        if is_own(volume):
            continue
        source, writable = (
            (volume["source"], not volume.get("read_only"))
            if isinstance(volume, dict)
            else (volume.split(":")[0], not volume.endswith(":ro"))
        )
        if source.startswith("."):
            if not (COMPOSE.parent / source).exists():
                yield f"no such file: {source}"
        elif not source.startswith("${") and source not in compose["volumes"]:
            yield f"no such volume: {source}"
        if source.startswith((".", "$")) and writable:
            yield f"{source} is mounted writable"


def is_own(volume: str | Document) -> bool:
    """Whether each container of the service has such a volume of its own, which its restart leaves alone."""
    return isinstance(volume, dict) and volume["type"] == "volume" and "source" not in volume


def journals(_: Document, service: Document) -> Iterator[str]:
    """Each worker that is started again finds what killed it, in a file that no other worker has."""
    own = load_settings_or_none(service)
    if own is None or "build" not in service or service.get("restart") in ONCE:
        return
    volumes = [volume for volume in service["volumes"] if is_own(volume) and not volume.get("read_only")]
    file = own.pipeline.journal
    if file is None or not any(file.is_relative_to(volume["target"]) for volume in volumes):
        yield f"its journal {file} is on no volume of its own"


def ports(_: Document, service: Document) -> Iterator[str]:
    for port in service.get("ports", []):
        if not re.match(r"127\.0\.0\.1:[0-9-]+:[0-9]+$", port):
            yield f"port {port} is not on loopback alone"


def secrets(_: Document, service: Document) -> Iterator[str]:
    for name, value in service.get("environment", {}).items():
        if (SECRET_NAME.search(name) and not str(value).startswith("/run/secrets/")) or SECRET_IN_URL.search(value):
            yield f"{name} holds a secret"


def health(_: Document, service: Document) -> Iterator[str]:
    if service.get("restart") in ONCE:
        return
    in_image = "build" in service and "\nHEALTHCHECK " in (DEPLOY / "worker.Dockerfile").read_text()
    if not in_image and "test" not in service.get("healthcheck", {}):
        yield "no health check"


def restarts(_: Document, service: Document) -> Iterator[str]:
    if "restart" not in service:
        yield "no restart policy"


def privileges(_: Document, service: Document) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "keeps privileges"
    if service.get("build") and not service.get("read_only"):
        yield "its root is writable"
    if service.get("build") and "user" in service:
        yield "is not run as the image's user"


def dependencies(compose: Document, service: Document) -> Iterator[str]:
    for name, how in service.get("depends_on", {}).items():
        other = compose["services"].get(name)
        if other is None:
            yield f"depends on {name}, which is not there"
        elif how["condition"] == "service_healthy" and "test" not in other.get("healthcheck", {}):
            yield f"waits for the health of {name}, which has none"
        elif how["condition"] == "service_completed_successfully" and other.get("restart") not in ONCE:
            yield f"waits for the end of {name}, which is started again"


def endings(_: Document, service: Document) -> Iterator[str]:
    own = load_settings_or_none(service)
    if service.get("build") and service.get("restart") not in ONCE and own is not None:
        granted = int(service.get("stop_grace_period", "10s").removesuffix("s"))
        if granted < ending_s(own):
            yield f"is killed after {granted} s, and may need {ending_s(own):g} s"


CHECKS = [
    dependencies,
    endings,
    health,
    images,
    journals,
    mounts,
    places,
    ports,
    privileges,
    restarts,
    secrets,
    settings,
]


def test_nothing_is_wrong(compose: Document) -> None:
    assert problems(compose) == []


MISTAKES: list[tuple[str, str, Change, str]] = [
    ("floating image", "kafka", lambda s: s.update(image="apache/kafka:latest"), "not pinned"),
    ("half a version", "grafana", lambda s: s.update(image="grafana/grafana:12"), "not pinned"),
    ("lost Dockerfile", "worker", lambda s: s["build"].update(dockerfile="deploy/w.Dockerfile"), "no such file"),
    ("no image", "kafka", lambda s: s.pop("image"), "not pinned"),
    ("misspelt setting", "worker", lambda s: s["environment"].update(GENPRINT_KAFKA__GRUOP_ID="x"), "no such setting"),
    ("bad value", "topics", lambda s: s["environment"].update(GENPRINT_TOPICS__PARTITIONS="0"), "topics.partitions"),
    (
        "wrong broker",
        "worker",
        lambda s: s["environment"].update(GENPRINT_KAFKA__BOOTSTRAP_SERVERS="kafka:9092"),
        "is not among",
    ),
    ("no cache", "worker-gpu", lambda s: s["environment"].update(GENPRINT_REDIS__URL="redis://redis:6379/0"), "cache"),
    ("small messages", "kafka", lambda s: s["environment"].update(KAFKA_MESSAGE_MAX_BYTES="1048576"), "refuses"),
    ("lost mount", "prometheus", lambda s: s["volumes"].append("./prom:/x:ro"), "no such file: ./prom"),
    ("lost volume", "kafka", lambda s: s["volumes"].append("data:/x"), "no such volume: data"),
    ("writable mount", "grafana", lambda s: s["volumes"].append("./grafana:/x"), "writable"),
    ("writable bundle", "worker", lambda s: s["volumes"][0].pop("read_only"), "writable"),
    ("open port", "prometheus", lambda s: s.update(ports=["9090:9090"]), "not on loopback"),
    ("open port by address", "valkey", lambda s: s.update(ports=["0.0.0.0:6379:6379"]), "not on loopback"),
    ("password", "grafana", lambda s: s["environment"].update(GF_SECURITY_ADMIN_PASSWORD="x"), "holds a secret"),
    (
        "password in an address",
        "worker",
        lambda s: s["environment"].update(GENPRINT_REDIS__URL="redis://:pw@valkey:6379/0"),
        "holds a secret",
    ),
    ("no health check", "valkey", lambda s: s.pop("healthcheck"), "no health check"),
    ("no restart policy", "kafka", lambda s: s.pop("restart"), "no restart policy"),
    ("capabilities", "kafka", lambda s: s.pop("cap_drop"), "keeps privileges"),
    ("new privileges", "worker", lambda s: s.pop("security_opt"), "keeps privileges"),
    ("writable root", "worker", lambda s: s.update(read_only=False), "its root is writable"),
    ("root", "worker-gpu", lambda s: s.update(user="0"), "not run as the image's user"),
    ("lost dependency", "topics", lambda s: s["depends_on"].update(k={"condition": "service_started"}), "not there"),
    ("topics for ever", "topics", lambda s: s.update(restart="always"), "started again"),
    ("no journal", "worker", lambda s: s["environment"].pop("GENPRINT_PIPELINE__JOURNAL"), "on no volume"),
    (
        "a journal that ends with its process",
        "worker-gpu",
        lambda s: s["environment"].update(GENPRINT_PIPELINE__JOURNAL="/tmp/journal"),
        "on no volume",
    ),
    ("a journal of all workers", "worker", lambda s: s["volumes"][1].update(source="kafka"), "on no volume"),
    ("a journal that is only read", "worker", lambda s: s["volumes"][1].update(read_only=True), "on no volume"),
    ("short grace", "worker", lambda s: s.update(stop_grace_period="10s"), "is killed after 10 s"),
]


@pytest.mark.parametrize(
    ("service", "change", "expected"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES]
)
def test_a_mistake_is_found(compose: Document, service: str, change: Change, expected: str) -> None:
    broken = json.loads(json.dumps(compose))  # anchors make one object of what several services have
    change(broken["services"][service])
    assert any(expected in problem for problem in problems(broken)), problems(broken)


def schema_verdict(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_it_is_valid_by_the_schema_of_compose() -> None:
    verdict = schema_verdict(COMPOSE)
    assert verdict.returncode == 0, verdict.stdout


def test_the_schema_refuses_a_wrong_field(compose: Document, tmp_path: Path) -> None:
    compose["services"]["worker"]["restrat"] = "always"
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(compose))
    verdict = schema_verdict(tmp_path / "compose.yaml")
    assert verdict.returncode == 1
    assert "restrat" in verdict.stdout


def test_one_profile_runs_by_default_and_each_has_one_worker(compose: Document) -> None:
    defaults = dict(
        line.split("=", 1) for line in DEFAULTS.read_text().splitlines() if line and not line.startswith("#")
    )
    assert defaults.keys() == {"COMPOSE_PROFILES", "BUNDLE_DIR"}
    profiles = [profile for service in compose["services"].values() for profile in service.get("profiles", [])]
    assert sorted(profiles) == ["cpu", "gpu"]
    assert defaults["COMPOSE_PROFILES"] == "cpu"
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict) and not is_own(volume):
                assert volume["source"] == "${BUNDLE_DIR:-" + defaults["BUNDLE_DIR"] + "}"


def test_only_the_gpu_profile_asks_for_a_device(compose: Document) -> None:
    with_device = [name for name, service in compose["services"].items() if "deploy" in service]
    assert with_device == ["worker-gpu"]
    (device,) = compose["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "args" not in compose["services"]["worker-gpu"]["build"]  # the Dockerfile's own defaults: CUDA
    assert compose["services"]["worker"]["build"]["args"]["DEVICE"] == "cpu"


def test_prometheus_finds_the_workers_and_grafana_finds_prometheus(compose: Document) -> None:
    services = compose["services"]
    (scraped,) = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    for name in ("worker", "worker-gpu"):
        assert set(found["names"]) <= set(services[name]["networks"]["default"]["aliases"])
        assert services[name]["ports"][0].endswith(f":{Settings().http.port}")
    assert found["port"] == Settings().http.port
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = read(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert services["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = read(provisioning / "dashboards" / "genprint.yaml")["providers"]
    targets = {volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]}
    assert targets[provider["options"]["path"]] == "./grafana/dashboards"
    assert targets["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert list((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    config = next(word for word in services["prometheus"]["command"] if word.startswith("--config.file="))
    assert config == "--config.file=/etc/prometheus/prometheus.yml"
    assert "./prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]

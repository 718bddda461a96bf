"""Settings: an unknown or malformed setting stops start-up and is named; secrets are never shown."""

import pickle
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from worker.errors import StartupError
from worker.settings import Settings, SettingsSection, load_settings


def load(
    *assignments: str, config: Path | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    return load_settings(config, assignments, environment)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Make a TOML file."""

    def written(toml: str) -> Path:
        path = tmp_path / "worker.toml"
        path.write_text(toml)
        return path

    return written


def fields(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsSection):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


FIELDS = dict(fields())


def test_later_sources_win(write: Callable[[str], Path]) -> None:
    toml = "[kafka]\ngroup_id = 'toml'\nimages_topic = 'toml'\nretry_topic = 'toml'\n[fetch]\nattempts = 9\n"
    variables = {"GENPRINT_KAFKA__GROUP_ID": "env", "GENPRINT_KAFKA__IMAGES_TOPIC": "env", "OTHER": "x"}
    settings = load("kafka.group_id=set", "kafka.group_id=last", config=write(toml), environment=variables)
    kafka = settings.kafka
    assert (kafka.group_id, kafka.images_topic, kafka.retry_topic, kafka.verdicts_topic) == (
        "last",
        "env",
        "toml",
        "verdicts",
    )
    assert settings.fetch.attempts == 9


def test_values_are_read_by_type() -> None:
    settings = load(
        "fetch.sources= s3://a , https://b.example:8443/x ,",
        "fetch.allow_private_addresses=true",
        "bundle=/a/b=c",
        "redis.url=redis://h?a=b",
        environment={
            "GENPRINT_EVENTS__ATTRIBUTES": "tenant,region",
            "GENPRINT_LOG_LEVEL": "debug",
            "GENPRINT_INFERENCE__MAX_WAIT_S": "0",
        },
    )
    assert settings.fetch.sources == ("s3://a", "https://b.example:8443/x")
    assert settings.fetch.allow_private_addresses is True
    assert settings.bundle == Path("/a/b=c")
    assert settings.redis.url == SecretStr("redis://h?a=b")
    assert settings.events.attributes == ("tenant", "region")
    assert (settings.log_level, settings.inference.max_wait_s) == ("debug", 0)


def test_an_empty_list_allows_nothing() -> None:
    assert load("fetch.sources=").fetch.sources == ()


@pytest.mark.parametrize(
    "name", ["typo", "kafka", "kafka.typo", "kafka.group_id.x", "typo.x", "", ".", "fetch.sources.0"]
)
def test_an_unknown_name_stops_the_start_from_every_source(name: str, write: Callable[[str], Path]) -> None:
    variable = "GENPRINT_" + name.upper().replace(".", "__")
    with pytest.raises(StartupError, match=re.escape(variable)):
        load(environment={variable: "x"})
    with pytest.raises(StartupError, match=re.escape(f"--set {name}: no such setting")):
        load(f"{name}=x")
    if name.count(".") == 1 and name != ".":
        section, key = name.split(".")
        with pytest.raises(StartupError, match="no such setting"):
            load(config=write(f"[{section}]\n{key} = 1\n"))


def test_an_assignment_needs_a_value() -> None:
    with pytest.raises(StartupError, match=r"--set kafka\.group_id"):
        load("kafka.group_id")


@pytest.mark.parametrize(
    ("assignment", "shown"),
    [
        ("redis.password:hunter2", "redis.password"),
        ("redis.url redis://u:hunter2@h", "redis.url"),
        ("redis.url redis://u:hunter2=@h", "redis.url"),
        ("kafka.sasl_password\x1bhunter2", "kafka.sasl_password"),
    ],
)
def test_a_secret_behind_a_mistyped_sign_is_not_shown(assignment: str, shown: str) -> None:
    with pytest.raises(StartupError, match=rf"^--set {re.escape(shown)}: ") as caught:
        load(assignment)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("toml", ["redis = 'hunter2'", "[[redis]]\nurl = 'hunter2'"])
def test_a_section_that_is_given_a_value_is_called_one(toml: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(StartupError) as caught:
        load(config=write(toml))
    assert str(caught.value) == "setting redis: is a section and has no value itself; its settings stand under [redis]"


@pytest.mark.parametrize("toml", ["x", "[kafka", "a = 1\na = 1"])
def test_a_file_that_is_no_toml_or_not_there_is_named(toml: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"worker\.toml: "):
        load(config=write(toml))
    with pytest.raises(StartupError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml", (), {})


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_bytes(b"run_id = '\xff'")
    with pytest.raises(StartupError, match=r"w\.toml"):
        load_settings(tmp_path / "w.toml", (), {})


BAD_SOURCES = [
    "https:/cdn.example", "https", "https:", "cdn.example", "//cdn.example", "*", "https://*.example", "ftp://x",
    "https://u:p@cdn.example", "https://cdn.example?x", "https://cdn.example/#x", "https://cdn:port", "https://cdn:",
    "https://[::1", "https:///x", "s3://u@b", "s3://b:9", "s3:///x", "s3:b", "file://", "file://data", "file:/data",
    "HTTPS://cdn.example", "https://a b",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("fetch.sources", source, "such as https://") for source in BAD_SOURCES),
        ("fetch.sources", "https://,cdn", "such as https://"),
        ("kafka.images_topic", "my images", "has another form than expected"),
        ("kafka.verdicts_topic", "", "has another form than expected"),
        ("fetch.attempts", "many", "integer"),
        ("fetch.attempts", "0", "greater than or equal to 1"),
        ("fetch.deadline_s", "0", "greater than 0"),
        ("fetch.deadline_s", "nan", "finite"),
        ("fetch.deadline_s", "inf", "finite"),
        ("inference.max_wait_s", "-1", "greater than or equal to 0"),
        ("inference.device", "tpu", "'cuda', 'cpu' or 'auto'"),
        ("images.max_pixels", "99999999999", "less than or equal to"),
        ("http.port", "65536", "less than or equal to 65535"),
        ("policy.prior_generated", "1", "less than 1"),
        ("kafka.delivery", "maybe_once", "'exactly_once' or 'at_least_once'"),
        ("kafka.instance_id", "a b", "another form"),
        ("kafka.bootstrap_servers", "localhost", "as host:port, separated by commas"),
        ("kafka.bootstrap_servers", "localhost:port", "as host:port"),
        ("kafka.bootstrap_servers", "a:1, b:2", "as host:port"),
        ("kafka.bootstrap_servers", "[::1", "as host:port"),
        ("bundle", "", "expected a path"),
        ("kafka.ssl_cafile", "", "expected a path"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_malformed_value_is_named_with_what_was_expected(name: str, value: str, expected: str) -> None:
    with pytest.raises(StartupError) as caught:
        load(f"{name}={value}")
    text = str(caught.value)
    assert text.startswith(f"setting {name}: ")
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("images.decode_processes", 256),
        ("inference.threads", 256),
        ("inference.batch_size", 2**16),
        ("kafka.max_poll_records", 10**6),
        ("kafka.max_message_bytes", 2**31 - 1),
        ("kafka.fetch_max_bytes", 2**31 - 1),
        ("fetch.concurrency", 10**6),
        ("fetch.max_held_bytes", 2**40),
        ("redis.timeout_s", 10**6),
        ("topics.dead_retention_s", 10**9),
        ("topics.replication", 2**15 - 1),
    ],
)
def test_the_largest_values(name: str, most: int) -> None:
    section, key = name.split(".")
    assert getattr(getattr(load(f"{name}={most}"), section), key) == most
    with pytest.raises(
        StartupError, match=rf"^setting {re.escape(name)}: Input should be less than or equal to {most}"
    ):
        load(f"{name}={most + 1}")


@pytest.mark.parametrize(
    "sources",
    ["https://", "http://127.0.0.1", "http://[::1]:80/x", "https://a-b.example:8443/img/", "s3://up_loads",
     "gs://b/a b", "az://", "file:///", "file:///data/my%20images"],
)  # fmt: skip
def test_good_sources(sources: str) -> None:
    assert load(f"fetch.sources={sources}").fetch.sources == (sources,)


@pytest.mark.parametrize("servers", ["a:1", "a.b-c_d:9092,10.0.0.1:9092", "[::1]:9092"])
def test_good_brokers(servers: str) -> None:
    assert load(f"kafka.bootstrap_servers={servers}").kafka.bootstrap_servers == servers


@pytest.mark.parametrize(
    ("assignments", "named"),
    [
        (["events.inline_max_bytes=99999999"], "kafka.max_message_bytes"),
        (["kafka.publish_deadline_s=1"], "kafka.transaction_timeout_s"),
        (["kafka.retry_topic=images"], "topics"),
        (["kafka.verdicts_topic=x", "kafka.dead_topic=x"], "topics"),
    ],
)
def test_settings_that_contradict_each_other(assignments: list[str], named: str) -> None:
    with pytest.raises(StartupError, match=named):
        load(*assignments)


@pytest.mark.parametrize("toml", ["kafka = 3", "[fetch]\nsources = 'https://'", "[[kafka]]", "[fetch.attempts]\nx = 1"])
def test_toml_of_another_shape(toml: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(StartupError, match=r"setting (kafka|fetch)"):
        load(config=write(toml))


# Secrets -------------------------------------------------------------------------------------------------------------

PASSWORD = "hunter2"
SECRETS = [name for name, field in FIELDS.items() if SecretStr in (field.annotation, *get_args(field.annotation))]


def test_what_should_be_secret_is() -> None:
    assert {"kafka.sasl_password", "redis.url", "redis.salt"} <= set(SECRETS)
    assert [
        name for name in FIELDS if re.search("password|secret|token|salt|_key$", name) and name not in SECRETS
    ] == []


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_text(name: str) -> None:
    settings = load(f"{name}={PASSWORD}")
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert PASSWORD not in text


@pytest.mark.parametrize("name", [*SECRETS, "fetch.attempts", "kafka.bootstrap_servers"])
def test_a_malformed_value_is_not_shown_not_even_in_a_traceback(name: str, write: Callable[[str], Path]) -> None:
    section, key = name.split(".")
    with pytest.raises(StartupError) as caught:
        load(config=write(f"[{section}]\n{key} = ['{PASSWORD}']\n"))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


# The object itself ---------------------------------------------------------------------------------------------------


def test_settings_are_frozen() -> None:
    settings = load()
    for section, name in ((settings, "run_id"), (settings.kafka, "group_id"), (settings.fetch, "sources")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, "x")
    hash(settings)


def test_settings_survive_pickling() -> None:
    settings = load("redis.salt=x")
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_what_it_is(name: str) -> None:
    description = FIELDS[name].description or ""
    assert description.endswith(".")
    assert len(description) > 8


UNITS = r"(_s|_bytes|_pixels|_threads|_processes|_size|_id)$"
COUNTED = r"\b(attempts|fetches|threads|events|failures|records|share|port)\b"
NUMBERS = [n for n, f in FIELDS.items() if {int, float} & {f.annotation, *get_args(f.annotation)}]


@pytest.mark.parametrize("value", [str(10**20), "1e17", "1e308"])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_largest_value(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=rf"^setting {re.escape(name)}: "):
        load(f"{name}={value}")


@pytest.mark.parametrize("name", [name for name in NUMBERS if re.fullmatch(r"kafka\..*_s", name)])
def test_kafka_s_times_fit_its_milliseconds(name: str) -> None:
    [most] = [limit.le for limit in FIELDS[name].metadata if hasattr(limit, "le")]
    assert int(most * 1000) < 2**31


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_its_unit_in_its_name_or_text(name: str) -> None:
    text = (FIELDS[name].description or "").lower()
    assert re.search(UNITS, name) or re.search(COUNTED, text)


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_valid_when_given_as_text(name: str) -> None:
    default: Any = FIELDS[name].get_default(call_default_factory=True, validated_data={})
    if default is None or isinstance(default, SecretStr):
        return
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    variable = "GENPRINT_" + name.upper().replace(".", "__")
    assert load(environment={variable: text}) == load()

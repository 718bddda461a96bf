"""The worker's settings: one frozen object, built once in ``__main__`` and passed on.

Sources, later ones win: defaults, a TOML file (``--config``), environment variables (``GENPRINT_KAFKA__GROUP_ID``),
command line (``--set kafka.group_id=x``). Unknown names stop start-up: a misspelt setting must not be a default.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from bundle.preprocess import MAX_PIXELS_CEILING
from worker.errors import StartupError

PREFIX = "GENPRINT_"

PositiveSeconds = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]

_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
_BROKERS = rf"^{_HOST}:[0-9]{{1,5}}(,{_HOST}:[0-9]{{1,5}})*$"
_SOURCES = (
    re.compile(rf"https?://({_HOST}(:[0-9]{{1,5}})?(/[^?#\s]*)?)?"),
    re.compile(r"(s3|gs|az)://([^\s/?#@:]+(/[^?#]*)?)?"),
    re.compile(r"file:///[^?#]*"),
)


def _source(prefix: str) -> str:
    """Refuses a prefix that says less than it seems to: ``https:/cdn`` names no host, so it would allow them all."""
    if not any(form.fullmatch(prefix) for form in _SOURCES):
        raise ValueError("expected a prefix such as https://, https://cdn.example, s3://uploads or file:///data/images")
    return prefix


SourcePrefix = Annotated[str, AfterValidator(_source)]


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a password, and the error is the cause of ours
    )


class KafkaSettings(Section):
    """Kafka: where, what and how surely."""

    bootstrap_servers: str = Field(default="localhost:9092", pattern=_BROKERS)
    """Comma-separated host:port of some brokers."""
    group_id: str = "genprint"
    """Consumer group; workers of one group share the partitions."""
    instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Stable identity of this process (for instance the pod's name): static membership and transactional id, so that
    a restarted worker is back at once. Without it every start is a new member."""
    images_topic: str = "images"
    """Image events."""
    retry_topic: str = "images.retry"
    """Deferred events; read by the same workers."""
    dead_topic: str = "images.dead"
    """Rejected events, with reason and origin."""
    verdicts_topic: str = "verdicts"
    """Verdicts."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """By transaction, or offsets after verdicts (duplicates carry the same verdict_id)."""
    commit_interval_s: PositiveSeconds = 0.1
    """One transaction or offset commit at most this often."""
    start_timeout_s: PositiveSeconds = 15
    """How long start-up waits for a broker."""
    session_timeout_s: PositiveSeconds = 10
    """Silence after which the group gives a worker's partitions to others."""
    max_poll_interval_s: PositiveSeconds = 60
    """Time between polls after which a worker counts as stuck."""
    transaction_timeout_s: PositiveSeconds = 15
    """After this the broker aborts an open transaction."""
    publish_deadline_s: PositiveSeconds = 45
    """A publication that takes longer ends the process (kafka-python waits for ever)."""
    max_message_bytes: PositiveInt = 12 * 2**20
    """Largest message to produce; larger dead letters become pointers to their origin."""
    max_poll_records: PositiveInt = 256
    """Most records that one poll takes over from the client."""
    fetch_max_bytes: PositiveInt = 16 * 2**20
    """Most bytes that one fetch from a broker returns."""
    max_batch_bytes: PositiveInt = 64 * 2**20
    """Most bytes of a record batch once decompressed; the records of a larger one are answered by dead letters."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Encryption and authentication towards the broker."""
    ssl_cafile: Path | None = None
    """Certificate authority of the brokers (PEM); without it those of the system."""
    ssl_certfile: Path | None = None
    """Our own certificate (PEM)."""
    ssl_keyfile: Path | None = None
    """Key of our own certificate (PEM)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How we prove who we are."""
    sasl_username: str | None = None
    """Name for SASL."""
    sasl_password: SecretStr | None = None
    """Password for SASL."""


class TopicSettings(Section):
    """Topics as `python -m worker topics` makes and checks them; a worker that runs does not look here."""

    partitions: PositiveInt = 12
    """Partitions of each topic: the most workers that can share the events of one."""
    replication: PositiveInt = 3
    """Copies of all records; all but one of them must be written before a record counts as such."""
    images_retention_s: PositiveInt = 3 * 86400
    """How long image events are kept; also how far back a replay can go."""
    retry_retention_s: PositiveInt = 7 * 86400
    """How long deferred events are kept; more than any outage of workers."""
    dead_retention_s: PositiveInt = 30 * 86400
    """How long rejected events are kept."""
    verdicts_retention_s: PositiveInt = 7 * 86400
    """How long verdicts are kept."""


class RedisSettings(Section):
    """The embedding cache."""

    url: SecretStr | None = None
    """redis://, rediss:// or unix:// address; without one nothing is cached."""
    username: str | None = None
    """Name of the ACL user, unless it is in the address."""
    password: SecretStr | None = None
    """Password, unless it is in the address."""
    ssl_cafile: Path | None = None
    """Certificate authority of the server (PEM), besides those of the system; for rediss://."""
    ssl_certfile: Path | None = None
    """Our own certificate (PEM)."""
    ssl_keyfile: Path | None = None
    """Key of our own certificate (PEM)."""
    timeout_s: PositiveSeconds = 0.05
    """Limit of any one call; a slower cache is a miss."""
    ttl_s: PositiveInt = 7 * 86400
    """Life of an entry."""
    salt: SecretStr = SecretStr("")
    """Mixed into the keys: workers with other salts share nothing, so that `cached` does not tell one tenant what
    another has uploaded."""
    breaker_failures: PositiveInt = 5
    """Failures in a row after which the cache is left alone for a while."""
    breaker_pause_s: PositiveSeconds = 5
    """How long it is left alone."""


class FetchSettings(Section):
    """Claim checks: what may be fetched, and how patiently."""

    sources: tuple[SourcePrefix, ...] = ("https://",)
    """Allowed URI prefixes: a scheme (`https://`), a host (`https://cdn.example`, at the scheme's own port unless it
    names one), a bucket (`s3://uploads`), a folder (`file:///data/images`). Whatever matches none is rejected."""
    allow_private_addresses: bool = False
    """Fetch over HTTP from loopback and private networks too. Only where nobody but you can write events."""
    max_bytes: PositiveInt = 20 * 2**20
    """Most bytes of one image."""
    deadline_s: PositiveSeconds = 5
    """Time for one attempt, redirects included; after it the event is deferred."""
    patience_s: PositiveSeconds = 0.5
    """Time after which a fresh event's fetch is given up for now (deferred) if the worker has no room left and answered
    events wait behind it: what stands before them in their partition holds them all up."""
    attempts: PositiveInt = 5
    """Attempts before a dead letter."""
    retry_delay_s: PositiveSeconds = 30
    """Time between attempts. The same for all of them, so that the retry topic is due in its own order."""
    max_held_bytes: PositiveInt = 256 * 2**20
    """Fetched bytes that wait for decoding; above it no further fetch begins (those under way may still come in)."""
    concurrency: PositiveInt = 64
    """Fetches at a time."""
    per_host: PositiveInt = 16
    """Fetches at a time from one host."""


class EventSettings(Section):
    """Image events."""

    inline_max_bytes: PositiveInt = 8 * 2**20
    """Most bytes of an image inside an event."""
    attributes: tuple[str, ...] = ("tenant",)
    """CloudEvents extension attributes that are carried into the verdict."""


class FairnessSettings(Section):
    """Fair sharing among the values of an event attribute."""

    attribute: str = "tenant"
    """The attribute that names a tenant, one of `events.attributes`; events without it count as one tenant."""
    max_share: float = Field(default=0.25, gt=0, le=1)
    """Share of `pipeline.max_in_flight` that one tenant may hold while others are active; more is deferred. 1 switches
    fair sharing off."""
    window_s: PositiveSeconds = 60
    """How long after its last event a tenant counts as active."""


class ImageSettings(Section):
    """Decoding."""

    max_pixels: int = Field(default=50_000_000, ge=1, le=MAX_PIXELS_CEILING)
    """Most pixels of one image; more is rejected from the header."""
    decode_threads: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that decode and cut views (Pillow releases the GIL)."""
    memory_bytes: PositiveInt = 1 << 30
    """Decoded bytes held at a time; an image that needs more than all of it waits to be alone."""


class InferenceSettings(Section):
    """ONNX Runtime."""

    device: Literal["cuda", "cpu", "auto"] = "cuda"
    """`cuda` or start-up fails; `cpu`; or `auto`: CUDA where there is one."""
    device_id: int = Field(default=0, ge=0)
    """Which GPU."""
    batch_size: PositiveInt = 32
    """Images of one batch, and most views of one run of the graph; a CPU takes as many at a time as are fastest there
    (tried at the start)."""
    max_wait_s: float = Field(default=0.01, ge=0)
    """How long an incomplete batch waits for more when there is no backlog."""
    threads: int = Field(default=0, ge=0)
    """CPU threads inside ONNX Runtime; 0 lets it choose."""
    gpu_memory_bytes: int = Field(default=0, ge=0)
    """Ceiling of the CUDA arena; 0 for none."""


class PipelineSettings(Section):
    """Flow."""

    max_in_flight: PositiveInt = 512
    """Events taken up and not yet answered."""
    max_in_flight_bytes: PositiveInt = 256 * 2**20
    """Encoded bytes inside those events (what claim checks fetch is bounded by `fetch.max_held_bytes`)."""
    drain_s: PositiveSeconds = 5
    """Time to finish what is in flight on SIGTERM."""
    stall_s: PositiveSeconds = 120
    """An event in flight for longer makes /live fail."""


class PolicySettings(Section):
    """What is recommended for each decision."""

    prior_generated: float | None = Field(default=None, gt=0, lt=1)
    """Share of generated images you expect; without it the bundle's calibration prior."""
    real: str = "allow"
    """Action for `real`."""
    generated: str = "block"
    """Action for `generated`."""
    unsure: str = "review"
    """Action for `unsure`."""


class HttpSettings(Section):
    """Metrics and health."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod is scraped from outside; NetworkPolicy is the fence
    """Address to listen on."""
    port: int = Field(default=9464, ge=0, le=65535)
    """Port of /metrics, /live and /ready; 0 takes a free one and logs it."""


class Settings(Section):
    """All settings of the worker."""

    bundle: Path | None = None
    """Directory of the model bundle."""
    run_id: str = "live"
    """Part of every verdict_id: the same event under the same run has the same verdict_id."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    redis: RedisSettings = RedisSettings()
    fetch: FetchSettings = FetchSettings()
    events: EventSettings = EventSettings()
    fairness: FairnessSettings = FairnessSettings()
    images: ImageSettings = ImageSettings()
    inference: InferenceSettings = InferenceSettings()
    pipeline: PipelineSettings = PipelineSettings()
    policy: PolicySettings = PolicySettings()
    http: HttpSettings = HttpSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.events.inline_max_bytes > self.kafka.max_message_bytes:
            raise ValueError("events.inline_max_bytes is above kafka.max_message_bytes: dead letters would not fit")
        kafka = self.kafka
        if not kafka.transaction_timeout_s < kafka.publish_deadline_s < kafka.max_poll_interval_s:
            raise ValueError(
                "kafka.publish_deadline_s must lie between kafka.transaction_timeout_s and kafka.max_poll_interval_s"
            )
        if "attribute" in self.fairness.model_fields_set and self.fairness.attribute not in self.events.attributes:
            raise ValueError("fairness.attribute is not among events.attributes: no tenant would be told from another")
        k = self.kafka
        if len({k.images_topic, k.retry_topic, k.dead_topic, k.verdicts_topic}) < 4:
            raise ValueError("kafka's four topics must differ: our headers are believed on kafka.retry_topic alone")
        return self


def load_settings(
    config: Path | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from a TOML file, ``GENPRINT_*`` variables and ``section.name=value`` assignments.

    Raises:
        StartupError: names the setting and what was expected; never its value.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StartupError(f"{config}: {error}") from error
    for variable, value in environment.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            if _field(name) is None:
                raise StartupError(f"environment variable {variable}: no such setting")
            values = _assigned(values, name, value)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or _field(name) is None:
            raise StartupError(f"--set {name}: expected the name of a setting and a value, as in kafka.group_id=x")
        values = _assigned(values, name, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(part for part in first["loc"] if isinstance(part, str))  # without positions in a list
        field = _field(name)
        meaning = f" ({' '.join(field.description.split())})" if field and field.description else ""
        expected = "no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise StartupError(f"setting {name}: {expected}{meaning}" if name else f"settings: {expected}") from error


def _field(name: str) -> FieldInfo | None:
    """The setting of that dotted name; None for a section or an unknown name."""
    fields: Mapping[str, FieldInfo] = Settings.model_fields
    *sections, last = name.split(".")
    for section in sections:
        annotation = fields[section].annotation if section in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return None
        fields = annotation.model_fields
    field = fields.get(last)
    is_section = field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    return None if is_section else field


def _assigned(values: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    """``values`` with one setting given as text; lists are written with commas."""
    field = _field(name)
    assert field is not None
    is_list = get_origin(field.annotation) is tuple
    nested: dict[str, Any] = {}
    *sections, last = name.split(".")
    inner = nested
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = tuple(part.strip() for part in text.split(",") if part.strip()) if is_list else text
    return _merged(values, nested)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged

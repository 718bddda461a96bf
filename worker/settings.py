"""The worker's settings: one frozen object, built once in ``__main__`` and passed on.

Sources, later ones win: defaults, a TOML file (``--config``), environment variables (``GENPRINT_KAFKA__GROUP_ID``),
command line (``--set kafka.group_id=x``). Unknown names stop start-up: a misspelt setting must not be a default.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from bundle import documents
from bundle.views import MAX_PIXELS_CEILING
from worker.errors import StartupError

PREFIX = "GENPRINT_"

# Bounds are far above what anybody needs, and below what a machine, a file's format or Kafka's protocol can hold.
PositiveSeconds = Annotated[float, Field(gt=0, le=1e6)]
"""A timeout or interval; in milliseconds it fits Kafka's int32."""
RetentionSeconds = Annotated[int, Field(ge=1, le=10**9)]
PositiveCount = Annotated[int, Field(ge=1, le=10**6)]
PositiveBytes = Annotated[int, Field(ge=1, le=2**40)]
KafkaBytes = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A size that Kafka's protocol holds in an int32."""
MOST_PROCESSES = 256

_TOPIC = r"^[A-Za-z0-9._-]{1,249}$"
_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
_BROKERS = rf"^{_HOST}:[0-9]{{1,5}}(,{_HOST}:[0-9]{{1,5}})*$"
_SOURCES = (
    re.compile(rf"https?://({_HOST}(:[0-9]{{1,5}})?(/[^?#\s]*)?)?"),
    re.compile(r"(s3|gs|az)://([^\s/?#@:]+(/[^?#]*)?)?"),
    re.compile(r"file:///[^?#]*"),
)


def _source(prefix: str) -> str:
    """Refuse a prefix that allows more than it seems to: ``https:/cdn`` names no host, so it would allow every host."""
    if not any(form.fullmatch(prefix) for form in _SOURCES):
        raise ValueError("expected a prefix such as https://, https://cdn.example, s3://uploads or file:///data/images")
    return prefix


def _named(path: object) -> object:
    """Refuse an empty path, which would be the working directory."""
    if path == "":
        raise ValueError("expected a path, got an empty text")
    return path


FilePath = Annotated[Path, BeforeValidator(_named)]
SourcePrefix = Annotated[str, AfterValidator(_source)]


class SettingsSection(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an input may be a password, and StartupError shows this error as its cause
    )


class KafkaSettings(SettingsSection):
    """Connection to Kafka, topics and delivery."""

    bootstrap_servers: str = Field(default="localhost:9092", pattern=_BROKERS)
    """Addresses of one or more brokers, as host:port, separated by commas."""
    group_id: str = "genprint"
    """Consumer group; workers of one group share the partitions."""
    instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Stable identity of this process (for instance the pod's name), used for static membership and as transactional
    id, so that a restarted worker has its partitions again at once. Without it every start is a new member."""
    images_topic: str = Field(default="images", pattern=_TOPIC)
    """Topic that image events are read from."""
    retry_topic: str = Field(default="images.retry", pattern=_TOPIC)
    """Topic of deferred events, read by the same workers."""
    dead_topic: str = Field(default="images.dead", pattern=_TOPIC)
    """Topic of rejected events (dead letters), with reason and origin."""
    verdicts_topic: str = Field(default="verdicts", pattern=_TOPIC)
    """Topic that verdicts are written to."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """`exactly_once`: by Kafka transactions. `at_least_once`: offsets are committed after the verdicts, so that a
    verdict may come twice, with the same verdict_id."""
    commit_interval_s: PositiveSeconds = 0.1
    """Least time between two transactions or offset commits."""
    start_timeout_s: PositiveSeconds = 15
    """Time that start-up waits for a broker."""
    beyond_end: Literal["stop", "end", "beginning"] = "stop"
    """What to do with a partition whose committed offset lies beyond its end, where nothing tells why: `stop` reading
    it until somebody has looked (an alert tells), go on at its `end` (skips what was written since it was cut), or at
    its `beginning` (answers everything again)."""
    session_timeout_s: PositiveSeconds = 10
    """Silence after which the group gives a worker's partitions to others."""
    max_poll_interval_s: PositiveSeconds = 60
    """Time between polls after which a worker counts as stuck."""
    transaction_timeout_s: PositiveSeconds = 15
    """Time after which the broker aborts an open transaction."""
    publish_deadline_s: PositiveSeconds = 45
    """Time after which an unfinished publication ends the process (kafka-python itself would wait for ever)."""
    max_message_bytes: KafkaBytes = 12 * 2**20
    """Most bytes of a message that is written; a larger dead letter becomes a pointer to its origin."""
    max_poll_records: PositiveCount = 256
    """Most records that one poll returns."""
    fetch_max_bytes: KafkaBytes = 16 * 2**20
    """Most bytes that one fetch from a broker returns; a poll ends once it has unpacked or returned as many."""
    max_batch_bytes: PositiveBytes = 64 * 2**20
    """Most bytes of a record batch once decompressed; a larger one is answered by one dead letter. All batches that are
    unpacked at a time may have twice as many."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Encryption (SSL) and authentication (SASL) of connections to the brokers."""
    ssl_cafile: FilePath | None = None
    """Certificate authority of the brokers (PEM); without it the system's authorities."""
    ssl_certfile: FilePath | None = None
    """Client certificate of the worker (PEM)."""
    ssl_keyfile: FilePath | None = None
    """Key of the client certificate (PEM, not encrypted)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """SASL mechanism by which the worker authenticates."""
    sasl_username: str | None = None
    """User name for SASL."""
    sasl_password: SecretStr | None = None
    """Password for SASL."""


class TopicSettings(SettingsSection):
    """Topics as `genprint topics` creates and checks them; a running worker does not use these settings."""

    partitions: PositiveCount = 12
    """Partitions of each topic: the most workers that can share the events of one."""
    replication: int = Field(default=3, ge=1, le=2**15 - 1)
    """Replicas that hold all records; a record counts as written when all of them but one have it."""
    images_retention_s: RetentionSeconds = 3 * 86400
    """How long image events are kept; also how far back a replay can go."""
    retry_retention_s: RetentionSeconds = 7 * 86400
    """How long deferred events are kept; choose more than the longest outage of the workers."""
    dead_retention_s: RetentionSeconds = 30 * 86400
    """How long rejected events are kept."""
    verdicts_retention_s: RetentionSeconds = 7 * 86400
    """How long verdicts are kept."""


class RedisSettings(SettingsSection):
    """The score cache in Redis or Valkey."""

    url: SecretStr | None = None
    """Address: redis://, rediss:// or unix://. Without one nothing is cached."""
    username: str | None = None
    """Name of the ACL user, unless the address has it."""
    password: SecretStr | None = None
    """Password, unless the address has it."""
    ssl_cafile: FilePath | None = None
    """Certificate authority of the server (PEM), in addition to the system's authorities; for rediss://."""
    ssl_certfile: FilePath | None = None
    """Client certificate of the worker (PEM)."""
    ssl_keyfile: FilePath | None = None
    """Key of the client certificate (PEM, not encrypted)."""
    timeout_s: PositiveSeconds = 0.05
    """Time limit of each call; a slower answer counts as a miss."""
    ttl_s: RetentionSeconds = 7 * 86400
    """Lifetime of an entry."""
    salt: SecretStr = SecretStr("")
    """Text mixed into the keys: workers with different salts share no entries, so that `cached` does not tell one
    tenant what another has uploaded."""
    breaker_failures: PositiveCount = 5
    """Failures in a row after which the cache is bypassed for a while."""
    breaker_pause_s: PositiveSeconds = 5
    """Time for which the cache is then bypassed."""


class FetchSettings(SettingsSection):
    """Fetching of claim checks: allowed addresses, limits and retries."""

    sources: tuple[SourcePrefix, ...] = ("https://",)
    """Allowed URI prefixes: a scheme (`https://`), a host (`https://cdn.example`, at the scheme's own port unless it
    names one), a bucket (`s3://uploads`), a folder (`file:///data/images`). An address that
    matches none is rejected."""
    allow_private_addresses: bool = False
    """Whether HTTP may fetch from loopback and private networks. Set it only where you alone can write events."""
    max_bytes: PositiveBytes = 20 * 2**20
    """Most bytes of one image."""
    deadline_s: PositiveSeconds = 5
    """Time for one attempt, redirects included; after it the event is deferred."""
    patience_s: PositiveSeconds = 0.5
    """Time after which a fresh event that is still being fetched is deferred, if the worker has no room for
    another event and answered events of the same partition wait behind it."""
    attempts: PositiveCount = 5
    """Attempts before an event becomes a dead letter."""
    retry_delay_s: PositiveSeconds = 30
    """Time between attempts; the same for all, so that events become due in the order of the retry topic. Also the
    longest time for which a host's `Retry-After` is heeded."""
    max_held_bytes: PositiveBytes = 256 * 2**20
    """Most bytes of images that are being fetched or wait for decoding. A body is read once there is room for its
    declared length, or for `fetch.max_bytes` where it declares none. At least `fetch.max_bytes`."""
    concurrency: PositiveCount = 64
    """Most fetches at a time; of one tenant `fairness.max_share` of them while others fetch, here as in the two limits
    beside it."""
    per_host: PositiveCount = 16
    """Most fetches at a time from one host."""

    @model_validator(mode="after")
    def _room_for_one(self) -> Self:
        if self.max_held_bytes < self.max_bytes:
            raise ValueError("fetch.max_held_bytes is less than fetch.max_bytes: such an image would never fit")
        return self


class EventSettings(SettingsSection):
    """Limits and attributes of image events."""

    inline_max_bytes: PositiveBytes = 8 * 2**20
    """Most bytes of an image inside an event."""
    attributes: tuple[str, ...] = ("tenant",)
    """CloudEvents extension attributes that are carried into the verdict."""


class FairnessSettings(SettingsSection):
    """Fair sharing among the values of an event attribute."""

    attribute: str = "tenant"
    """The attribute that names a tenant, one of `events.attributes`; events without it count as one tenant."""
    max_share: float = Field(default=0.25, gt=0, le=1)
    """Share of `pipeline.max_in_flight` that one tenant may hold while others are active; its further events are
    deferred. Also its share of `fetch.concurrency`, of `fetch.per_host` at each host, and of `fetch.max_held_bytes`;
    there its fetches wait. 1 switches fair sharing off."""
    window_s: PositiveSeconds = 60
    """How long after its last event a tenant counts as active."""


class ImageSettings(SettingsSection):
    """Decoding of images."""

    max_pixels: int = Field(default=50_000_000, ge=1, le=MAX_PIXELS_CEILING)
    """Most pixels of one image; a larger one is rejected by its header, before it is decoded."""
    decode_processes: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, MOST_PROCESSES), ge=1, le=MOST_PROCESSES
    )
    """Processes that decode images and cut views, each without the worker's credentials and rights."""
    sandbox: Literal["required", "optional"] = "required"
    """What happens where the kernel does not let these processes give up their rights (seccomp): `required` refuses to
    start, `optional` goes on with a warning and a metric."""
    memory_bytes: PositiveBytes = 1 << 30
    """Most decoded bytes at a time; an image that needs more is decoded alone."""


class InferenceSettings(SettingsSection):
    """Inference with ONNX Runtime."""

    device: Literal["cuda", "cpu", "auto"] = "cuda"
    """`cuda` (start-up fails without a usable GPU), `cpu`, or `auto` (CUDA where there is a usable GPU)."""
    device_id: int = Field(default=0, ge=0, le=2**15 - 1)
    """Number of the GPU."""
    batch_size: int = Field(default=32, ge=1, le=2**16)
    """Most images of a batch, and most views of one run of a graph; on a CPU, start-up measures how many views at a
    time are fastest, up to this number."""
    max_wait_s: float = Field(default=0.01, ge=0, le=1e6)
    """How long an incomplete batch waits for more images when there is no backlog."""
    threads: int = Field(default=0, ge=0, le=MOST_PROCESSES)
    """CPU threads inside ONNX Runtime; 0 lets it choose."""
    gpu_memory_bytes: int = Field(default=0, ge=0, le=2**40)
    """Most bytes of ONNX Runtime's memory on the GPU; 0 for no limit."""


class PipelineSettings(SettingsSection):
    """Limits on events in flight, and deadlines."""

    max_in_flight: PositiveCount = 512
    """Most events in flight (slots): admitted, and not yet answered and published."""
    max_in_flight_bytes: PositiveBytes = 256 * 2**20
    """Most bytes that those events and their answers hold: values, keys, headers (`fetch.max_held_bytes` limits what is
    fetched for claim checks)."""
    journal: FilePath | None = None
    """File that says what was in flight when the process was killed, so that an event which kills is found and
    rejected; it must outlive the process (in Kubernetes on an emptyDir, in Compose on a volume of the container's own).
    Without it such an event kills every worker that gets it."""
    drain_s: PositiveSeconds = 5
    """Time to finish the events in flight on SIGTERM."""
    stall_s: PositiveSeconds = 120
    """Time after which /live fails: without a turn of the main loop, or for an event in flight without an answer."""


class PolicySettings(SettingsSection):
    """The action that verdicts recommend for each decision, and the prior."""

    prior_generated: float | None = Field(default=None, gt=0, lt=1)
    """Share of generated images that you expect; without it the prior of the bundle's calibration."""
    real: str = "allow"
    """Action for `real`."""
    generated: str = "block"
    """Action for `generated`."""
    unsure: str = "review"
    """Action for `unsure`."""


class HttpSettings(SettingsSection):
    """HTTP server of metrics and health."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod is scraped from outside; NetworkPolicy is the fence
    """Address to listen on."""
    port: int = Field(default=9464, ge=0, le=65535)
    """Port of /metrics, /live and /ready; 0 takes a free one and logs it."""


class Settings(SettingsSection):
    """All settings of the worker."""

    bundle: FilePath | None = None
    """Directory of the model bundle."""
    run_id: str = "live"
    """Part of every verdict_id: the same event under the same run has the same verdict_id."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged."""
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

    @property
    def memory_bytes(self) -> int:
        """Most bytes that a worker holds of what others send, beside Python, the model and the template library.

        Of fetches there are: four set aside for paused partitions, one coming in, one polled, two deferred and not yet
        due; of batches: two unpacked, one in the making; of the largest message: one beyond the events in flight, what
        is being published, with the client's copy, and a batch of each of three brokers that is larger than its share
        of a fetch. Each further broker that leads partitions of the worker may add one. With a cache there are four
        answers of 8 MiB, and copies of them.
        """
        kafka = self.kafka
        return (
            8 * kafka.fetch_max_bytes
            + 3 * kafka.max_batch_bytes
            + self.pipeline.max_in_flight_bytes
            + 8 * kafka.max_message_bytes
            + self.fetch.max_held_bytes
            + self.images.memory_bytes
            + (64 * 2**20 if self.redis.url else 0)
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.events.inline_max_bytes > self.kafka.max_message_bytes:
            raise ValueError("events.inline_max_bytes exceeds kafka.max_message_bytes: dead letters would not fit")
        kafka = self.kafka
        if not kafka.transaction_timeout_s < kafka.publish_deadline_s < kafka.max_poll_interval_s:
            raise ValueError(
                "kafka.publish_deadline_s must lie between kafka.transaction_timeout_s and kafka.max_poll_interval_s"
            )
        if "attribute" in self.fairness.model_fields_set and self.fairness.attribute not in self.events.attributes:
            raise ValueError("fairness.attribute is not among events.attributes: add it there, or all tenants are one")
        if len({kafka.images_topic, kafka.retry_topic, kafka.dead_topic, kafka.verdicts_topic}) < 4:
            raise ValueError(
                "kafka's four topics must differ: only on kafka.retry_topic are the worker's own headers trusted"
            )
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
        values = read_toml(config)
    for variable, value in environment.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            if _field(name) is None:
                raise StartupError(f"environment variable {variable}: no such setting")
            values = _assigned(values, name, value)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise StartupError(
                f"--set {_like_a_name(name)}: expected the name of a setting and a value, as in kafka.group_id=x"
            )
        if _field(name) is None:
            raise StartupError(f"--set {_like_a_name(name)}: no such setting")
        values = _assigned(values, name, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(part for part in first["loc"] if isinstance(part, str))  # without positions in a list
        field = _field(name)
        meaning = f" ({' '.join(field.description.split())})" if field and field.description else ""
        own = {
            "extra_forbidden": "no such setting",
            "string_pattern_mismatch": "has another form than expected",
            "model_type": f"is a section and has no value itself; its settings stand under [{name}]",
        }
        expected = own.get(first["type"], first["msg"])
        raise StartupError(f"setting {name}: {expected}{meaning}" if name else f"settings: {expected}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        StartupError: it cannot be read, or is no TOML.
    """
    try:
        return documents.read_toml(path)
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"{path}: {error}") from error


def _like_a_name(text: str) -> str:
    """What ``text`` begins with, up to the first sign that no name has: behind a mistyped ``=`` may stand a secret."""
    return re.split(r"[^A-Za-z0-9_.]", text, maxsplit=1)[0]


def _field(name: str) -> FieldInfo | None:
    """The setting of that dotted name; None for a section or an unknown name."""
    fields: Mapping[str, FieldInfo] = Settings.model_fields
    *sections, last = name.split(".")
    for section in sections:
        annotation = fields[section].annotation if section in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, SettingsSection)):
            return None
        fields = annotation.model_fields
    field = fields.get(last)
    annotation = field.annotation if field else None
    return None if isinstance(annotation, type) and issubclass(annotation, SettingsSection) else field


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

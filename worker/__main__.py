"""``python -m worker``: run, replay, classify, produce, topics, schema, plan, settings, metrics."""

import csv
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Column, Table

from bundle.errors import BundleError
from bundle.store import Bundle, load_bundle
from worker.decision.attribution import Attributor
from worker.errors import StartupError, WorkerError
from worker.images.fetch import Fetcher
from worker.kafka.client import ImageSender, KafkaBroker
from worker.kafka.replay import ReplayBroker
from worker.kafka.span import read_span, replay_settings
from worker.kafka.topic_admin import TopicRequest, check_topics_and_rights, create_topics_and_rights
from worker.kafka.topics import ROLES, difference_row, read_principals
from worker.messages.records import Broker
from worker.messages.schemas import SCHEMAS
from worker.operations.health import Health, HealthServer
from worker.operations.logs import configure_logs
from worker.operations.metrics import Metrics
from worker.operations.reference import Row, json_table, markdown_table, metrics_rows, settings_rows, terminal_table
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stages import Stages
from worker.scoring.cache import NoCache, RedisCache, ScoreCache
from worker.scoring.engine import Engine
from worker.settings import Settings, load_settings
from worker.tools.capacity import check, fit, read_measured
from worker.tools.classify import Classified, classify, find_images
from worker.tools.plan import Embedding, Load, check_rows, embedding, plan, plan_json, plan_rows, read_prices
from worker.tools.produce import ContentKind, image_events

T = TypeVar("T")
BENCH = Path("build/bench/worker.json")
_BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

app = typer.Typer(
    help="Serve a bundle: image events in, verdicts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="Topics and rights in Kafka, as this worker needs them.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetOption = Annotated[list[str], typer.Option("--set", help="One setting, as in kafka.group_id=x; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="For documentation.")]
BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Bundle directory; the setting `bundle`.")]
AclsOption = Annotated[
    str, typer.Option("--acls", help=f"Rights too: worker=User:w,...; roles are {', '.join(ROLES)}.", metavar="ROLES")
]
GroupsOption = Annotated[
    str | None, typer.Option(help="Role consumer: what its groups' names begin with; the verdicts' topic if not given.")
]


@app.command()
def run(config: ConfigOption = None, assign: SetOption = [], bundle: BundleOption = None) -> None:  # noqa: B006
    """Consume image events and publish verdicts until SIGTERM or Ctrl-C."""
    with _one_line_errors():
        settings = _settings(config, assign, bundle)
        _serve(settings, lambda metrics, _: KafkaBroker(settings.kafka, metrics))


@app.command()
def replay(
    run_id: Annotated[str, typer.Option("--run-id", help="Name of this backfill; part of its verdict_ids.")],
    start: Annotated[str, typer.Option("--from", help="A time with zone, earliest, or offsets: 0:100,1:250.")],
    end: Annotated[str, typer.Option("--to", help="Likewise, or now; this point itself is left out.")],
    topic: Annotated[str | None, typer.Option(help="Instead of kafka.images_topic.")] = None,
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    bundle: BundleOption = None,
) -> None:
    """Judge a span of a topic again, beside the live workers; stopped, the same command goes on."""
    with _one_line_errors():
        span = read_span(start, end)
        settings = replay_settings(_settings(config, assign, bundle), run_id, topic)
        answered = threading.Event()
        console = Console(stderr=True)
        with Progress(*_BAR, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("replaying", total=None)

            def make_broker(metrics: Metrics, stop: threading.Event) -> Broker:
                def finish() -> None:
                    answered.set()
                    stop.set()

                def show(total: int, left: int) -> None:
                    bar.update(task, total=total, completed=total - left)

                return ReplayBroker(settings.kafka, metrics, span, finish, show)

            _serve(settings, make_broker)
        if not answered.is_set():
            raise WorkerError(f"run {run_id} was stopped before its end; the same command goes on with it")
        console.print(f"run {run_id}: every event of the span has its answer", highlight=False)


def _serve(settings: Settings, make_broker: Callable[[Metrics, threading.Event], Broker]) -> None:
    """Work until SIGTERM or Ctrl-C, or until the broker sets the event that it is given."""
    configure_logs(settings.log_level)
    log = structlog.get_logger("worker")
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    metrics = Metrics()
    loaded, engine = _engine(settings)
    manifest = loaded.manifest
    library = loaded.library_version
    identity = {"name": manifest.name, "version": manifest.version, "digest": loaded.digest, "library": library}
    metrics.bundle.info({**identity, "device": engine.device, "asked": settings.inference.device})
    if engine.driver is not None:
        metrics.watch_device_memory(engine.driver.memory)
    cache: ScoreCache = NoCache()
    if settings.redis.url is not None:
        cache = RedisCache(settings.redis, loaded, metrics)
        cache.check()
    stages = Stages(settings, loaded, engine, cache, Fetcher(settings.fetch), metrics)
    health = Health(settings.pipeline.stall_s)
    server = HealthServer(settings.http, health, metrics)
    server.start()
    log.info("serving", **identity, device=engine.device, http_port=server.port, delivery=settings.kafka.delivery)
    try:
        attributor = Attributor(loaded, settings.policy, settings.run_id)
        Pipeline(settings, make_broker(metrics, stop), stages, attributor, health, metrics).run(stop)
    finally:
        server.close()


@app.command("classify")
def classify_command(
    paths: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    bundle: BundleOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="One row an image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One verdict a line.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="Where to run; auto unless a setting says more."),
    ] = None,
) -> None:
    """Judge files and folders, without Kafka or Redis. Exit status 1 if an image could not be judged."""
    with _one_line_errors():
        settings = _settings(config, [*assign, *([f"inference.device={device}"] if device else [])], bundle)
        if "device" not in settings.inference.model_fields_set:
            settings = _settings(config, [*assign, "inference.device=auto"], bundle)
        loaded, engine = _engine(settings)
        files = find_images(paths)
        results = classify(files, settings, loaded, engine)
        shown = _shown(results, "judging", len(files))
        unjudged = _print_json(shown) if as_json else _print_csv(shown) if as_csv else _print_table(shown)
    raise typer.Exit(1 if unjudged else 0)


@app.command()
def produce(
    folder: Annotated[Path, typer.Argument(help="Searched recursively.", exists=True, file_okay=False)],
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    kind: Annotated[ContentKind, typer.Option(help="Images in the events, claim checks, or alternating.")] = "both",
    uri_prefix: Annotated[str | None, typer.Option(help="Start of claim checks' addresses.")] = None,
) -> None:
    """Stream a folder of images into the topic of image events."""
    with _one_line_errors():
        settings = _settings(config, assign, None)
        sender = ImageSender(settings.kafka)
        sender.start()
        try:
            topic = settings.kafka.images_topic
            events = image_events(folder, topic=topic, kind=kind, uri_prefix=uri_prefix)
            total = len(find_images([folder]))
            for message in _shown(events, "sending", total):
                sender.send(message)
            sender.flush()
        finally:
            sender.close()
        Console(stderr=True).print(f"{total} events in topic {topic}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SCHEMAS)}.")] = "verdict.v1",
) -> None:
    """Print a JSON Schema: of verdicts, of image events, or of the headers on what the worker writes."""
    with _one_line_errors():
        if name not in SCHEMAS:
            raise StartupError(f"no schema {name}: there are {', '.join(SCHEMAS)}")
        sys.stdout.write(json.dumps(SCHEMAS[name](), indent=2) + "\n")


@topics_app.command("create")
def topics_create(
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    acls: AclsOption = "",
    consumer_groups: GroupsOption = None,
    update: Annotated[bool, typer.Option("--update", help="Change settings of topics that exist.")] = False,
    add_partitions: Annotated[
        bool, typer.Option("--add-partitions", help="To topics that exist; keys then move to other partitions.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create what is missing; what exists and differs is left as it is, unless you say otherwise."""
    with _one_line_errors():
        settings = _settings(config, assign, None)
        groups = consumer_groups or settings.kafka.verdicts_topic
        asked = TopicRequest(read_principals(acls), groups, update, add_partitions, dry_run)
        done, left = create_topics_and_rights(settings, asked)
    outcome = "would be mended" if dry_run else "mended"
    rows = [*(difference_row(difference, outcome) for difference in done), *map(difference_row, left)]
    _print_differences(rows, as_json=as_json)


@topics_app.command("check")
def topics_check(
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    acls: AclsOption = "",
    consumer_groups: GroupsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print every difference between what is declared and what is there. Exit status 1 if there is one."""
    with _one_line_errors():
        settings = _settings(config, assign, None)
        groups = consumer_groups or settings.kafka.verdicts_topic
        differences = check_topics_and_rights(settings, TopicRequest(read_principals(acls), groups))
    _print_differences([difference_row(difference) for difference in differences], as_json=as_json)
    raise typer.Exit(1 if differences else 0)


def _print_differences(rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json_table(rows))
    elif rows:
        Console().print(terminal_table(rows))
    else:
        Console().print("as declared")


@app.command("plan")
def plan_command(
    images_per_day: Annotated[float, typer.Option(min=1, help="Mean; 1e9 is understood.")],
    measured: Annotated[Path, typer.Option(help="What `make bench` wrote on such a machine.")] = BENCH,
    regime: Annotated[str, typer.Option(help="Of the file: the network that is like yours.")] = "balanced",
    bundle: Annotated[Path | None, typer.Option(help="For the size of a cache entry.")] = None,
    dimension: Annotated[int | None, typer.Option(min=1, help="Numbers of an embedding, without a bundle.")] = None,
    views: Annotated[int, typer.Option(min=1, help="Views of an image, without a bundle.")] = 1,
    peak_factor: Annotated[float, typer.Option(min=1, help="Busiest hour to mean.")] = 2,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Images whose scores are cached.")] = 0.1,
    image_bytes: Annotated[float | None, typer.Option(min=1, help="Mean; the benchmark's without it.")] = None,
    decode_ms: Annotated[float | None, typer.Option(min=0, help="CPU; the benchmark's without it.")] = None,
    inline_share: Annotated[float, typer.Option(min=0, max=1, help="Events that carry the image itself.")] = 1,
    deferred_share: Annotated[float, typer.Option(min=0, max=1, help="Events that are put off once.")] = 0.01,
    rejected_share: Annotated[float, typer.Option(min=0, max=1, help="Events that become dead letters.")] = 0.001,
    readers: Annotated[int, typer.Option(min=0, help="Consumer groups that read the verdicts.")] = 1,
    cores: Annotated[float, typer.Option(min=0.1, help="CPU cores of one worker.")] = 1,
    prices: Annotated[Path | None, typer.Option(help="TOML file with prices.")] = None,
    price: Annotated[list[str], typer.Option(help="One price, as in worker_hour=0.1; repeatable.")] = [],  # noqa: B006
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Workers, partitions, network, Redis, disks and cost of a stream, from what was measured; and how sure that is."""
    with _one_line_errors():
        settings = _settings(config, assign, None)
        figures = read_measured(measured)
        model, checks = fit(figures), check(figures)
        load = Load(
            images_per_day=images_per_day,
            peak_factor=peak_factor,
            cached_share=cached_share,
            image_bytes=image_bytes or figures.image_bytes,
            inline_share=inline_share,
            deferred_share=deferred_share,
            rejected_share=rejected_share,
            verdict_readers=readers,
            worker_cores=cores,
            decode_s=None if decode_ms is None else decode_ms / 1000,
        )
        kept = embedding(load_bundle(bundle).manifest) if bundle else Embedding(dimension, views) if dimension else None
        found = plan(load, figures, model, regime, settings, kept, read_prices(prices, price))
        if as_json:
            document = plan_json(found, load, figures, model, regime, checks)
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
            return
        for rows in (plan_rows(found, load, settings), check_rows(checks)):
            _print_reference(rows, as_json=False, as_markdown=as_markdown)
            sys.stdout.write("\n")


@app.command("settings")
def settings_command(as_json: JsonOption = False, as_markdown: MarkdownOption = False) -> None:
    """Print every setting: values, unit, default, environment variable and meaning."""
    _print_reference(settings_rows(), as_json=as_json, as_markdown=as_markdown)


@app.command("metrics")
def metrics_command(as_json: JsonOption = False, as_markdown: MarkdownOption = False) -> None:
    """Print every metric: kind, labels and meaning."""
    _print_reference(metrics_rows(), as_json=as_json, as_markdown=as_markdown)


def _print_reference(rows: Sequence[Row], *, as_json: bool, as_markdown: bool) -> None:
    if as_json:
        sys.stdout.write(json_table(rows))
    elif as_markdown:
        sys.stdout.write(markdown_table(rows))
    else:
        Console().print(terminal_table(rows))


def _settings(config: Path | None, assign: list[str], bundle: Path | None) -> Settings:
    return load_settings(config, [*assign, *([f"bundle={bundle}"] if bundle else [])])


def _engine(settings: Settings) -> tuple[Bundle, Engine]:
    if settings.bundle is None:
        raise StartupError("no bundle: say --bundle DIR or set GENPRINT_BUNDLE")
    bundle = load_bundle(settings.bundle)
    engine = Engine(bundle, settings.inference)
    engine.start()
    return bundle, engine


def _print_table(results: Iterable[Classified]) -> int:
    # In a narrow terminal paths and reasons are folded, never cut: these two are what people copy.
    image, reasons = Column("image", overflow="fold"), Column("reasons", overflow="fold")
    table = Table(image, "decision", "prob.", "source", "dist.", "p-value", reasons)
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            table.add_row(str(result.path), "[red]none[/]", "", "", "", "", f"{result.reason}: {result.error}")
            continue
        generated, attribution = result.verdict.generated, result.verdict.attribution
        table.add_row(
            str(result.path),
            generated.decision,
            _number(generated.probability),
            attribution.source or "",
            _number(attribution.distance),
            _number(attribution.p_value),
            ", ".join(generated.reasons),
        )
    Console().print(table)
    return unjudged


def _print_csv(results: Iterable[Classified]) -> int:
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "decision", "probability", "source", "distance", "p_value", "reasons", "sha256"])
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            writer.writerow([result.path, "", "", "", "", "", result.reason, ""])
            continue
        v = result.verdict
        row = [v.generated.decision, v.generated.probability, v.attribution.source, v.attribution.distance]
        writer.writerow([result.path, *row, v.attribution.p_value, " ".join(v.generated.reasons), v.image.sha256])
    return unjudged


def _print_json(results: Iterable[Classified]) -> int:
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            failure = {"image": str(result.path), "reason": result.reason, "detail": str(result.error)}
            sys.stdout.write(json.dumps(failure) + "\n")
        else:
            sys.stdout.write(result.verdict.to_json().decode() + "\n")
    return unjudged


def _shown(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The same items, with a progress bar on a terminal."""
    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on stderr and exit status 2; our own bugs keep their traceback."""
    try:
        yield
    except (WorkerError, BundleError, OSError) as error:
        _stop(error)


def _stop(error: Any) -> NoReturn:
    sys.stderr.write(f"genprint worker: {' '.join(str(error).split())}\n")
    raise typer.Exit(2) from error


if __name__ == "__main__":
    app()

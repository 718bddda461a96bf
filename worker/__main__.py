"""``python -m worker``, and the commands of ``genprint`` itself: run, replay, classify, produce, topics, and others.

Options and help are here; what a command needs is imported when it is called, so that help and completion are quick.
"""

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from bundle.errors import BundleError
from bundle.standard_streams import run_command
from bundle.text import printable
from worker.errors import WorkerError

if TYPE_CHECKING:
    from worker.messages.records import BatchGuard, Broker
    from worker.operations.metrics import Metrics
    from worker.settings import Settings
    from worker.tools.image_files import ImageFiles

T = TypeVar("T")
BENCH = Path("build/bench/worker.json")

app = typer.Typer(
    help="Serve a bundle: image events in, verdicts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="Create and check topics and rights in Kafka.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetOption = Annotated[list[str], typer.Option("--set", help="One setting, as in kafka.group_id=x; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]
BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Bundle directory; the setting `bundle`.")]
AclsOption = Annotated[
    str,
    typer.Option(
        "--acls",
        help="Rights too: worker=User:w,...; roles are producer, worker, consumer, replay, scaler.",
        metavar="ROLES",
    ),
]
GroupsOption = Annotated[
    str | None,
    typer.Option(help="With role consumer: prefix of its consumer groups; default: the verdicts' topic."),
]


@app.command()
def run(config: ConfigOption = None, assign: SetOption = [], bundle: BundleOption = None) -> None:  # noqa: B006
    """Consume image events and publish verdicts. Ends at SIGTERM or Ctrl-C."""
    with _one_line_errors():
        from worker.kafka.client import KafkaBroker
        from worker.tools.serve import serve

        settings = _settings(config, assign, bundle)
        serve(settings, lambda metrics, guard, _: KafkaBroker(settings.kafka, metrics, guard))


@app.command()
def replay(
    run_id: Annotated[str, typer.Option("--run-id", help="Name of this replay; part of its verdict_ids.")],
    start: Annotated[str, typer.Option("--from", help="A time with zone, earliest, or offsets: 0:100,1:250.")],
    end: Annotated[str, typer.Option("--to", help="As for --from, or now; events at this point are left out.")],
    topic: Annotated[str | None, typer.Option(help="Topic to read instead of kafka.images_topic.")] = None,
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    bundle: BundleOption = None,
) -> None:
    """Answer a span of a topic again, beside the live workers. The same command resumes after a stop."""
    with _one_line_errors():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from worker.kafka.replay import ReplayBroker
        from worker.kafka.span import read_span, replay_settings
        from worker.operations.reference import plain_console
        from worker.tools.serve import serve

        span = read_span(start, end)
        settings = replay_settings(_settings(config, assign, bundle), run_id, topic)
        gone: list[int] = []
        console = plain_console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("replaying", total=None)

            def make_broker(metrics: "Metrics", guard: "BatchGuard", stop: threading.Event) -> "Broker":
                def finish(lost: int) -> None:
                    gone.append(lost)
                    stop.set()

                def show(total: int, left: int) -> None:
                    bar.update(task, total=total, completed=total - left)

                return ReplayBroker(settings.kafka, metrics, span, finish, show, guard)

            serve(settings, make_broker)
        if not gone:
            raise WorkerError(f"run {run_id} was stopped before its end; the same command goes on with it")
        if gone[0]:
            raise WorkerError(
                f"run {run_id}: {gone[0]} offsets of the span were removed by retention before they were read; "
                "every event that was left has its answer"
            )
        console.print(f"run {run_id}: every event of the span has its answer", highlight=False)


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    bundle: BundleOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row an image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one verdict a line.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="Where to run the model; default: the setting inference.device if it is set, else auto."),
    ] = None,
) -> None:
    """Classify files and folders, without Kafka or Redis. Exit status 1 if an image has no verdict."""
    _refuse_both(as_csv=as_csv, as_json=as_json)
    with _one_line_errors():
        from worker.tools.classify import Classified
        from worker.tools.classify import classify as classified
        from worker.tools.image_files import find_images
        from worker.tools.serve import start_engine
        from worker.tools.show import print_csv, print_json, print_table

        settings = _settings(config, [*assign, *([f"inference.device={device}"] if device else [])], bundle)
        if "device" not in settings.inference.model_fields_set:
            settings = _settings(config, [*assign, "inference.device=auto"], bundle)
        loaded, engine = start_engine(settings)
        found = find_images(paths)
        _report_skipped(found)
        unread = (Classified(path, None, error) for path, error in found.unread)
        rows = chain(unread, classified(found.paths, settings, loaded, engine))
        results = _with_progress(rows, "classifying", len(found.unread) + len(found.paths), prints=True)
        if as_json:
            unjudged = print_json(results)
        elif as_csv:
            unjudged = print_csv(results)
        else:
            labels = [label.name for label in loaded.manifest.labels]
            unjudged = print_table(results, found, labels)
    raise typer.Exit(1 if unjudged else 0)


@app.command()
def produce(
    folder: Annotated[Path, typer.Argument(help="Images, searched recursively.", exists=True, file_okay=False)],
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    kind: Annotated[
        Literal["inline", "claim-check", "both"],
        typer.Option(help="Send the images inside the events, their addresses, or both by turns."),
    ] = "both",
    uri_prefix: Annotated[str | None, typer.Option(help="Start of the addresses in claim checks.")] = None,
) -> None:
    """Stream a folder of images into the topic of image events."""
    with _one_line_errors():
        from worker.kafka.producers import ImageSender
        from worker.operations.reference import plain_console
        from worker.tools.image_files import find_images
        from worker.tools.produce import image_events

        settings = _settings(config, assign, None)
        sender = ImageSender(settings.kafka)
        sender.start()
        try:
            found = find_images([folder], only_taken=True)
            for _, error in found.unread:
                raise error
            _report_skipped(found)
            topic, total = settings.kafka.images_topic, len(found.paths)
            events = image_events(folder, settings, kind=kind, uri_prefix=uri_prefix)
            for message in _with_progress(events, "sending", total):
                sender.send(message)
            sender.flush()
        finally:
            sender.close()
        plain_console(stderr=True).print(f"{total} events in topic {topic}")


@app.command()
def schema(
    name: Annotated[
        Literal["verdict.v1", "image_event.v1", "headers.v1"], typer.Argument(help="Which schema.")
    ] = "verdict.v1",
) -> None:
    """Print a JSON Schema of messages. Of verdicts, of image events, or of the headers on what the worker writes."""
    from worker.messages.schemas import SCHEMAS

    sys.stdout.write(json.dumps(SCHEMAS[name](), indent=2) + "\n")


@topics_app.command("create")
def topics_create(
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    acls: AclsOption = "",
    consumer_groups: GroupsOption = None,
    update: Annotated[bool, typer.Option("--update", help="Change settings of topics that exist.")] = False,
    add_partitions: Annotated[
        bool, typer.Option("--add-partitions", help="Add partitions to topics that exist; keys change partitions then.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create what is missing; what exists and differs is changed only by --update and --add-partitions."""
    with _one_line_errors():
        from worker.kafka.topic_admin import TopicRequest, create_topics_and_rights
        from worker.kafka.topics import difference_row, read_principals

        settings = _settings(config, assign, None)
        groups = consumer_groups or settings.kafka.verdicts_topic
        request = TopicRequest(read_principals(acls), groups, update, add_partitions, dry_run)
        done, left = create_topics_and_rights(settings, request)
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
        from worker.kafka.topic_admin import TopicRequest, check_topics_and_rights
        from worker.kafka.topics import difference_row, read_principals

        settings = _settings(config, assign, None)
        groups = consumer_groups or settings.kafka.verdicts_topic
        differences = check_topics_and_rights(settings, TopicRequest(read_principals(acls), groups))
    _print_differences([difference_row(difference) for difference in differences], as_json=as_json)
    raise typer.Exit(1 if differences else 0)


@app.command()
def plan(
    images_per_day: Annotated[
        float, typer.Option(min=1, max=1e15, help="Mean number of images a day; 1e9 is understood.")
    ],
    measured: Annotated[Path, typer.Option(help="What `make bench` wrote on a machine like yours.")] = BENCH,
    regime: Annotated[str, typer.Option(help="Benchmark regime closest to your model.")] = "balanced",
    bundle: Annotated[Path | None, typer.Option(help="Bundle, for the size of a cache entry.")] = None,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Length of an embedding, where no --bundle is given.")
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="Views of an image, where no --bundle is given.")] = 1,
    peak_factor: Annotated[float, typer.Option(min=1, max=1e6, help="Load of the busiest hour over the mean.")] = 2,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Share of images whose scores are cached.")] = 0.1,
    image_bytes: Annotated[
        float | None, typer.Option(min=1, max=1e12, help="Mean size; default: the benchmark's.")
    ] = None,
    decode_ms: Annotated[
        float | None, typer.Option(min=0, max=1e9, help="CPU time to decode an image; default: the benchmark's.")
    ] = None,
    inline_share: Annotated[float, typer.Option(min=0, max=1, help="Share of events that carry the image itself.")] = 1,
    deferred_share: Annotated[float, typer.Option(min=0, max=1, help="Share of events that are deferred once.")] = 0.01,
    rejected_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of events that become dead letters.")
    ] = 0.001,
    readers: Annotated[int, typer.Option(min=0, help="Consumer groups that read the verdicts.")] = 1,
    cores: Annotated[float, typer.Option(min=0.1, max=1e4, help="CPU cores of one worker.")] = 1,
    prices: Annotated[Path | None, typer.Option(help="TOML file with prices.")] = None,
    price: Annotated[list[str], typer.Option(help="One price, as in worker_hour=0.1; repeatable.")] = [],  # noqa: B006
    config: ConfigOption = None,
    assign: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Estimate workers, partitions, disks and cost of a stream. And network, Redis and how sure each figure is."""
    _refuse_both(as_json=as_json, as_markdown=as_markdown)
    with _one_line_errors():
        from bundle.store import load_bundle
        from worker.tools.capacity import check, fit, read_measured
        from worker.tools.plan import Embedding, Load, check_rows, embedding, plan_json, plan_rows, read_prices
        from worker.tools.plan import plan as planned

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
        found = planned(load, figures, model, regime, settings, kept, read_prices(prices, price))
        if as_json:
            document = plan_json(found, load, figures, model, regime, checks)
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
            return
        for rows in (plan_rows(found, load, settings), check_rows(checks)):
            _print_reference(rows, as_json=False, as_markdown=as_markdown)
            sys.stdout.write("\n")


@app.command("settings")
def settings_command(as_json: JsonOption = False, as_markdown: MarkdownOption = False) -> None:
    """Print every setting: values, unit, default and meaning."""
    from worker.operations.reference import settings_rows

    _print_reference(settings_rows(), as_json=as_json, as_markdown=as_markdown)


@app.command("metrics")
def metrics_command(as_json: JsonOption = False, as_markdown: MarkdownOption = False) -> None:
    """Print every metric: kind, labels and meaning."""
    from worker.operations.reference import metrics_rows

    _print_reference(metrics_rows(), as_json=as_json, as_markdown=as_markdown)


def _report_skipped(found: "ImageFiles") -> None:
    if found.skipped:
        sys.stderr.write(f"genprint: left out: {found.left_out}\n")


def _refuse_both(**formats: bool) -> None:
    """Refuse two formats at once: one of them would be left out in silence."""
    given = [f"--{name.removeprefix('as_')}" for name, is_asked in formats.items() if is_asked]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")


def _print_reference(rows: Sequence[Mapping[str, str]], *, as_json: bool, as_markdown: bool) -> None:
    from worker.operations.reference import json_table, markdown_table, plain_console, terminal_table

    _refuse_both(as_json=as_json, as_markdown=as_markdown)
    if as_json:
        sys.stdout.write(json_table(rows))
    elif as_markdown:
        sys.stdout.write(markdown_table(rows))
    else:
        console = plain_console()
        table = terminal_table(rows, console.width)
        console.print(table, highlight=False, soft_wrap=isinstance(table, str))


def _print_differences(rows: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    if rows or as_json:
        _print_reference(rows, as_json=as_json, as_markdown=False)
    else:
        sys.stdout.write("as declared\n")


def _settings(config: Path | None, assign: list[str], bundle: Path | None) -> "Settings":
    from worker.settings import load_settings

    return load_settings(config, [*assign, *([f"bundle={bundle}"] if bundle else [])])


def _with_progress(items: Iterable[T], what: str, total: int, *, prints: bool = False) -> Iterator[T]:
    """The same items, with a progress bar on a terminal; not if they are themselves printed to one as they come."""
    from rich.progress import Progress

    from worker.operations.reference import plain_console

    console = plain_console(stderr=True)
    shows = console.is_terminal and not (prints and sys.stdout.isatty())
    # Without redirection: what is printed meanwhile belongs on standard output, not where the bar is.
    options = {"redirect_stdout": False, "redirect_stderr": False, "transient": True, "disable": not shows}
    with Progress(console=console, **options) as bar:  # type: ignore[arg-type]  # all of them are booleans
        yield from bar.track(items, total, description=what)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on stderr and exit status 2; faults of the program keep their traceback."""
    try:
        yield
    except (WorkerError, BundleError, OSError) as error:
        sys.stderr.write(f"genprint: {printable(' '.join(str(error).split()))}\n")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    run_command("genprint", app)

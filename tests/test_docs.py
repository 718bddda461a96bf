"""The documentation says nothing that is not there: links, commands, options, settings, metrics and files.

Commands are looked up in process, in what ``--help`` is made from; nothing that the documents name is run.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from trainer.choices import SYSTEMS
from trainer.training.systems import system
from worker.operations.reference import metrics_rows, settings_rows

ROOT = Path(__file__).parent.parent
README, FOLDER, INDEX = ROOT / "README.md", ROOT / "docs", ROOT / "docs" / "README.md"
CITATION = ROOT / "CITATION.cff"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(FOLDER.rglob("*.md"))]

PARTS = ("bundle", "worker", "trainer", "exporter", "deploy", "tests", "docs")
SETTINGS = {row["setting"]: row for row in settings_rows()}
VARIABLES = {row["variable"] for row in SETTINGS.values()}
SECTIONS = {name.partition(".")[0] for name in SETTINGS if "." in name}
TOPICS = {row["default"] for name, row in SETTINGS.items() if name.endswith("_topic")}
TRAINED_BY = {name for kind in SYSTEMS for name in system(kind).config.model_fields}
METRICS = {row["metric"]: row["kind"] for row in metrics_rows()}

FENCE = re.compile(r"\s*(`{3,}|~{3,})")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s>]+(?:\([^()\s]*\)[^()\s>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)"
)
REFERENCE = re.compile(r"\s{0,3}\[[^\]^]+\]:\s+(\S+)")
HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*$")
ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
VARIABLE = re.compile(r"\bGENPRINT_[A-Z0-9_]+")
ASSIGNMENT = re.compile(r"--set[ =]'?\"?([A-Za-z_][\w.]*)")
METRIC = re.compile(r"(?<![\w:./-])genprint_[a-z0-9_]+(?![\w:])")
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
FILE = re.compile(rf"(?:{'|'.join(PARTS)})/[\w./-]+")
FILE_TYPES = {"py", "md", "toml", "json", "yaml", "yml", "txt"}
ELLIPSES = {"…", "..."}
SHELL = {"|", "||", "&&", ";", "&"}
BELOW = ("trainer", "exporter")
"""Parts whose commands stand below their name in ``genprint``; the worker's stand at the top."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``is_code`` in a block of code, fenced or indented by four."""

    number: int
    text: str
    is_code: bool
    is_fenced: bool


def lines_of(text: str) -> Iterator[Line]:
    """All lines but the fences; those that a backslash continues are one."""
    fence, begun, first = "", "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        found = FENCE.match(line)
        if found and (not fence or (found[1].startswith(fence) and line.strip() == found[1])):
            fence = "" if fence else found[1]
            continue
        is_code = bool(fence) or line.startswith("    ")
        if is_code and line.endswith("\\"):
            begun, first = f"{begun}{line[:-1]} ", first or number
            continue
        yield Line(first or number, begun + line, is_code, bool(fence))
        begun, first = "", 0


def prose_of(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside of fences, without their spans of code."""
    yield from ((line.number, SPAN.sub("`code`", line.text)) for line in lines_of(text) if not line.is_fenced)


def spans_of(text: str) -> Iterator[tuple[int, str]]:
    """Code within sentences and tables."""
    for line in lines_of(text):
        if not line.is_code:
            yield from ((line.number, found[2].strip()) for found in SPAN.finditer(line.text))


# Links


def slug(heading: str) -> str:
    """As GitHub makes them: words in lower case, joined by dashes; what is neither letter nor digit goes."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def anchors_of(text: str) -> set[str]:
    """All that a link into this document may name; headings that repeat are numbered."""
    found: set[str] = set()
    for line in lines_of(text):
        if line.is_fenced:
            continue
        found.update(ANCHOR.findall(line.text))
        if heading := HEADING.match(line.text):
            name = slug(heading[1])
            found.add(next(n for n in (name, *(f"{name}-{i}" for i in range(1, 99))) if n not in found))
    return found


def link_faults(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """Links that lead nowhere, or out of the repository; those with a scheme are not looked at."""
    for number, line in prose_of(text):
        for target in [*LINK.findall(line), *REFERENCE.findall(line)]:
            if ELSEWHERE.match(target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if name and not (file.is_relative_to(ROOT) and file.exists()):
                yield number, f"{target}: no such file"
            elif file.suffix == ".md" and anchor and anchor not in anchors_of(text if not name else file.read_text()):
                yield number, f"{target}: no such heading"


# Commands


@dataclass(frozen=True, slots=True)
class Command:
    """What a document tells its reader to type; ``is_whole`` unless it is only named in a sentence."""

    number: int
    words: tuple[str, ...]
    is_whole: bool


def commands_of(text: str) -> Iterator[Command]:
    """The simple commands in blocks of code, and spans of code that begin like ours."""
    for line in lines_of(text):
        if line.is_code:
            yield from (Command(line.number, words, is_whole=True) for words in _split(line.text))
    for number, span in spans_of(text):
        if re.match(r"(genprint|python3? -m|make) ", span):
            yield from (Command(number, words, is_whole=False) for words in _split(span))


def _split(text: str) -> Iterator[tuple[str, ...]]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # another language, or a string of more than one line
        words = text.split()
    words = words[1:] if words[:1] == ["$"] else words
    simple: list[str] = []
    for word in [*words, ";"]:
        if word in SHELL or word.endswith(";"):
            simple += [word[:-1]] if word not in SHELL else []
            if simple:
                yield tuple(simple)
            simple = []
        else:
            simple.append(word)


def command_faults(text: str, _path: Path) -> Iterator[tuple[int, str]]:
    """Programs, commands, options, values, make targets and files that there are not."""
    for command in commands_of(text):
        yield from ((command.number, what) for what in wrong_with(command.words, is_whole=command.is_whole))
        missing = [word for word in command.words if FILE.fullmatch(word) and not (ROOT / word).exists()]
        yield from ((command.number, f"{word}: no such file") for word in missing)


def wrong_with(words: Sequence[str], *, is_whole: bool) -> Iterator[str]:
    """What is wrong with one simple command; nothing with programs that are not ours."""
    rest = list(words)
    while rest and re.fullmatch(r"\w+=.*", rest[0]):
        rest.pop(0)
    if rest[:1] == ["make"]:
        yield from _wrong_with_make(rest[1:])
        return
    if rest and rest[0].rpartition("/")[2] == "genprint":
        yield from _wrong_with_program("genprint", genprint(), rest[1:], is_whole=is_whole)
        return
    for i, word in enumerate(rest[:-2]):
        is_launcher = re.fullmatch(r"python3?(\.\d+)?|torchrun", word.rpartition("/")[2])
        if is_launcher and "-m" in rest[i:-1]:
            at = rest.index("-m", i)
            program = rest[at + 1]
            if program == "genprint" or program.partition(".")[0] in PARTS:
                command = genprint() if program == "genprint" else command_line(program)
                yield from _wrong_with_program(f"python -m {program}", command, rest[at + 2 :], is_whole=is_whole)
            return


def _wrong_with_program(name: str, command: Any, words: list[str], *, is_whole: bool) -> Iterator[str]:
    if command is None:
        yield f"{name}: no such program"
        return
    unbound = [word.strip("[]") for word in words]
    redirection = next((i for i, word in enumerate(unbound) if re.match(r"\d?(>>?|<)(?!.*>$)", word)), len(unbound))
    yield from _wrong_with_call(name, command, unbound[:redirection], is_whole=is_whole)


def _wrong_with_call(name: str, command: Any, words: list[str], *, is_whole: bool) -> Iterator[str]:
    if "--help" in words or (not words and not is_whole):
        return
    if not hasattr(command, "commands"):
        yield from _wrong_with_words(name, command, words, is_whole=is_whole)
        return
    for chosen in words[0].split("|") if words else [""]:
        if chosen in command.commands:
            yield from _wrong_with_call(f"{name} {chosen}", command.commands[chosen], words[1:], is_whole=is_whole)
        elif chosen not in ELLIPSES:
            yield f"{name} {chosen}: no such command, only {', '.join(command.commands)}"


def _wrong_with_words(name: str, command: Any, words: list[str], *, is_whole: bool) -> Iterator[str]:
    """Options, values and the number of arguments; ``is_whole`` if nothing that is required may be missing."""
    options = {opt: p for p in command.params for opt in (*p.opts, *p.secondary_opts) if opt.startswith("-")}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given, places, rest = set(), 0, [word for word in words if word not in ELLIPSES]
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("-"):
            places += 1
            continue
        found = options.get(option)
        if not equals and not (found and found.is_flag):
            value = rest.pop(0) if rest and (found or not rest[0].startswith("-")) else ""
        given.add(found and found.name)
        yield from _wrong_with_option(f"{name} {option}", found, value)
    if places > len(arguments) and all(p.nargs == 1 for p in arguments):
        yield f"{name}: takes {len(arguments)} arguments, not {places}"
    if is_whole and not ELLIPSES & set(words):
        missing = [p.name for p in {*options.values()} if p.required and p.name not in given]
        missing += [p.name for p in arguments[places:] if p.required]
        yield from (f"{name}: {what} is missing" for what in missing)


def _wrong_with_option(name: str, option: Any, text: str) -> Iterator[str]:
    if option is None:
        yield f"{name}: no such option"
    elif not option.is_flag and not text:
        yield f"{name}: its value is missing"
    elif choices := [str(getattr(choice, "value", choice)) for choice in option.type_descriptor.choices or ()]:
        yield from (f"{name} {one}: not one of {', '.join(choices)}" for one in text.split("|") if one not in choices)


@cache
def command_line(program: str) -> Any:
    """The commands of ``python -m PROGRAM``, as typer makes them for ``--help``; None if there is no such program."""
    try:
        spec = find_spec(program)
        if spec is not None and spec.submodule_search_locations is not None:
            program = f"{program}.__main__"
            spec = find_spec(program)
    except ModuleNotFoundError:
        return None
    if spec is None:
        return None
    module = import_module(program)
    app = getattr(module, "app", None)
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command()(module.main)
    return typer.main.get_command(app)


@dataclass(frozen=True, slots=True)
class Group:
    """Commands by name, as typer's own groups have them."""

    commands: Mapping[str, Any]


@cache
def genprint() -> Group:
    """The commands of ``genprint``: the worker's, and those of the other parts below their names."""
    return Group({**command_line("worker").commands, **{part: command_line(part) for part in BELOW}})


@cache
def makefile() -> tuple[dict[str, str], frozenset[str]]:
    """Recipes by target, and the variables that may be set."""
    recipes: dict[str, str] = {}
    variables: set[str] = set()
    targets: list[str] = []
    for line in (ROOT / "Makefile").read_text().splitlines():
        variables |= set(re.findall(r"\$\((\w+)\)", line)) | set(re.findall(r"^(\w+)\s*\??=", line))
        if rule := re.match(r"([\w$(). /-]+):(?!=)", line):
            targets = rule[1].split()
            recipes |= dict.fromkeys(targets, "")
        elif line.startswith("\t"):
            recipes |= {target: f"{recipes[target]}{line.strip()}\n" for target in targets}
    return recipes, frozenset(variables)


def _wrong_with_make(words: Sequence[str]) -> Iterator[str]:
    recipes, variables = makefile()
    values = dict(word.split("=", 1) for word in words if re.match(r"\w+=", word))
    yield from (f"make {name}=: no such variable" for name in values if name not in variables)
    for target in (word for word in words if "=" not in word and not word.startswith("-")):
        if target not in recipes:
            yield f"make {target}: no such target"
            continue
        for line in recipes[target].splitlines() if "OPTIONS" in values else ():
            if "$(OPTIONS)" in line:
                yield from wrong_with(shlex.split(line.replace("$(OPTIONS)", values["OPTIONS"])), is_whole=True)


# Names


def name_faults(text: str, _path: Path) -> Iterator[tuple[int, str]]:
    """Environment variables, assigned settings and metrics that there are not; anywhere."""
    for line in lines_of(text):
        for kind, pattern, is_known in (
            ("setting", VARIABLE, is_variable),
            ("setting", ASSIGNMENT, (SETTINGS.keys() | TRAINED_BY).__contains__),
            ("metric", METRIC, is_metric),
        ):
            unknown = [name for name in pattern.findall(line.text) if not is_known(name)]
            yield from ((line.number, f"{name}: no such {kind}") for name in unknown)


def span_faults(text: str, _path: Path) -> Iterator[tuple[int, str]]:
    """Settings and files that there are not, where a sentence names them as code."""
    for number, span in spans_of(text):
        name = span.partition("=")[0].strip()
        section, _, last = name.partition(".")
        is_setting = section in SECTIONS and re.fullmatch(r"[a-z_0-9]+", last) and last not in FILE_TYPES
        if is_setting and name not in SETTINGS and name not in TOPICS:
            yield number, f"{name}: no such setting"
        if FILE.fullmatch(span) and not (ROOT / span).exists():
            yield number, f"{span}: no such file"


def is_variable(name: str) -> bool:
    """Also the beginning of some names, as in ``GENPRINT_KAFKA__*``."""
    return name in VARIABLES or (name.endswith("_") and any(known.startswith(name) for known in VARIABLES))


def is_metric(name: str) -> bool:
    """Also a series of a histogram, and the beginning of a name that ends in ``_``."""
    histogram = next((name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part)), "")
    return (
        name in METRICS
        or METRICS.get(histogram) == "histogram"
        or (name.endswith("_") and any(known.startswith(name) for known in METRICS))
    )


CHECKS: tuple[Callable[[str, Path], Iterator[tuple[int, str]]], ...] = (
    link_faults,
    command_faults,
    name_faults,
    span_faults,
)


def faults(text: str, path: Path) -> list[str]:
    """Everything that is wrong with a document, with the number of its line."""
    found = sorted(fault for check in CHECKS for fault in check(text, path))
    return [f"{path.relative_to(ROOT)}:{number}: {what}" for number, what in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(path: Path) -> None:
    found = faults(path.read_text(), path)
    assert not found, "\n".join(found)


def test_the_index_names_every_document_once() -> None:
    rows = [line for _, line in prose_of(INDEX.read_text()) if line.startswith("| [")]
    assert sorted(LINK.findall(row)[0] for row in rows) == sorted(
        path.name for path in FOLDER.glob("*.md") if path != INDEX
    )


def test_the_citation_is_valid_and_of_this_version() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run([*command, str(CITATION)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    cited = yaml.safe_load(CITATION.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])


def test_there_is_something_to_read() -> None:
    text = README.read_text() + (FOLDER / "getting-started.md").read_text()
    words = {command.words[:4] for command in commands_of(text)}
    assert ("make", "demo") in words
    assert {("genprint", "run", "--bundle"), ("genprint", "exporter", "export")} <= {one[:3] for one in words}
    assert sum(len(LINK.findall(line)) for _, line in prose_of(text)) > 5
    assert {"kafka.group_id", "redis.url"} <= SETTINGS.keys()
    assert {"demo", "test", "clean"} <= makefile()[0].keys()


GOOD = """\
# Some *page* of `code`

[Up](../README.md#try-it), [itself](#some-page-of-code), [again](#some-page-of-code-1) and [out](https://example.org).
An [index](README.md "a title"); `[not a link](nowhere.md)`; see [ref].

[ref]: settings.md

## Some page of code

```
python -m worker run --bundle build/bundle --set kafka.group_id=x   # a comment with 'quotes'
GENPRINT_HTTP__PORT=0 .venv/bin/python -m worker classify a.jpg b.jpg \\
    --device cpu --json > verdicts.jsonl 2> log && echo done
python -m worker replay --run-id x --from earliest --to now
python -m trainer train DATA OUT [--recipe trainer/recipes/s1.toml] [--real photos]
python -m trainer evaluate CHECKPOINT DATA --templates DATA [--template one|mean] [--json]
torchrun --nproc-per-node 2 -m trainer train DATA CHECKPOINT
python -m deploy.local up --broker apache --port 9092 &
python -m exporter export … --alpha 0.05
genprint run --bundle build/bundle --set kafka.group_id=x > log
.venv/bin/genprint exporter inspect BUNDLE --json | head -1
genprint trainer train DATA OUT [--recipe trainer/recipes/s1.toml] && genprint topics check --config FILE
python -m genprint settings --json >> settings.json
docker run genprint/worker:cpu settings
python -m tests.chaos --markdown
python -m venv .anything --strange
CI=true make test
make PYTHON=python3.12
[not a link either](nowhere.md)
```

    make chaos OPTIONS='--only kill,proxy --scale 0.2'

`python -m worker settings`, `genprint replay`, `genprint trainer …`, `genprint …`,
`make clean`, `kafka.delivery = "at_least_once"`, `images.dead`,
`GENPRINT_*`, `GENPRINT_KAFKA__*`, `genprint_*`, `genprint_stage_seconds_bucket`, `genprint:lag_records:sum`,
`worker/kafka/client.py`, `events.md`, `trainer/models/`, `kafka.errors.KafkaError`,
`genprint_events_total{outcome="x"}`.
"""


def test_a_good_page_is_left_alone() -> None:
    assert faults(GOOD, FOLDER / "page.md") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[x](nowhere.md)", "nowhere.md: no such file"),
        ("![x](pictures/nowhere.png)", "pictures/nowhere.png: no such file"),
        ("[`code` [x]](nowhere.md)", "nowhere.md: no such file"),
        ("[x]: nowhere.md", "nowhere.md: no such file"),
        ("[x](../../../etc/hosts)", "../../../etc/hosts: no such file"),
        ("[x](../README.md#nothing)", "../README.md#nothing: no such heading"),
        ("# A heading\n```\n# No heading\n```\n[x](#no-heading)", "#no-heading: no such heading"),
        ("```\npython -m worker\n```", "python -m worker : no such command, only run"),
        ("```\npython -m worker serve\n```", "python -m worker serve: no such command, only run"),
        ("```\n$ .venv/bin/python -m worker run --bundel x\n```", "python -m worker run --bundel: no such option"),
        ("```\npython -m worker run \\\n  --bundel x\n```", "python -m worker run --bundel: no such option"),
        ("```\necho && A=1 python -m worker run -b x\n```", "python -m worker run -b: no such option"),
        ("    python -m worker run --bundle", "python -m worker run --bundle: its value is missing"),
        ("```\npython -m worker run x\n```", "python -m worker run: takes 0 arguments, not 1"),
        ("```\npython -m worker produce\n```", "python -m worker produce: folder is missing"),
        ("```\npython -m worker replay --from now --to now\n```", "python -m worker replay: run_id is missing"),
        ("```\npython -m worker produce x --kind inlined\n```", "produce --kind inlined: not one of inline"),
        ("```\ntorchrun -m trainer train a b --epoch 3\n```", "python -m trainer train --epoch: no such option"),
        ("```\npython -m deploy.nowhere up\n```", "python -m deploy.nowhere: no such program"),
        ("```\npython -m trainr train\n```", None),
        ("Say `python -m exporter exprt`.", "python -m exporter exprt: no such command, only export"),
        ("Say `python -m worker schema --yaml`.", "python -m worker schema --yaml: no such option"),
        ("```\ngenprint serve\n```", "genprint serve: no such command, only run"),
        ("```\nA=1 .venv/bin/genprint run --bundel x\n```", "genprint run --bundel: no such option"),
        ("```\npython -m genprint worker run\n```", "python -m genprint worker: no such command"),
        ("```\ngenprint trainer train a b --epoch 3\n```", "genprint trainer train --epoch: no such option"),
        ("Pass it to `genprint exporter exprt`.", "genprint exporter exprt: no such command, only export"),
        ("```\nmake everything\n```", "make everything: no such target"),
        ("```\nmake bench OPTION='--quick'\n```", "make OPTION=: no such variable"),
        ("```\nmake bench OPTIONS='--fast'\n```", "python -m tests.bench --fast: no such option"),
        ("Say `make evrything`.", "make evrything: no such target"),
        ("GENPRINT_KAFKA_GROUP_ID", "GENPRINT_KAFKA_GROUP_ID: no such setting"),
        ("GENPRINT_KAFKI__*", "GENPRINT_KAFKI__: no such setting"),
        ("```\npython -m worker run --set kafka.group=x\n```", "kafka.group: no such setting"),
        ("Set `fetch.deadline`.", "fetch.deadline: no such setting"),
        ('Set `policy.block = "x"`.', "policy.block: no such setting"),
        ("```\nrate(genprint_verdicts_total[5m])\n```", "genprint_verdicts_total: no such metric"),
        ("genprint_events_total_bucket", "genprint_events_total_bucket: no such metric"),
        ("`worker/nowhere.py`", "worker/nowhere.py: no such file"),
        ("```\npython deploy/nowhere.py --group x\n```", "deploy/nowhere.py: no such file"),
    ],
)
def test_a_mistake_is_found_with_its_line(text: str, what: str | None) -> None:
    found = faults(f"\n{text}\n", FOLDER / "page.md")
    if what is None:  # nobody's program of ours
        assert found == []
        return
    assert len(found) == 1, found
    assert what in found[0]
    assert re.match(r"docs/page\.md:[2-6]: ", found[0])

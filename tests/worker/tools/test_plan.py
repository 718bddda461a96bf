"""The plan against arithmetic by hand, the model against measured runs, and the page against the command.

``measured.json`` is what ``make bench`` wrote on a machine with two cores, without the figures that no plan reads::

    make bench && python -m tests.worker.tools.trim_measured build/bench/worker.json tests/worker/tools/measured.json
"""

import copy
import json
import math
import re
import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from pydantic import SecretStr
from typer.testing import CliRunner

from bundle.preprocess import ImageFacts
from deploy.local.valkey import Valkey
from tests.worker.messages.verdicts import make_verdict
from tests.worker.small_bundle import small_bundle
from tests.worker.tools.trim_measured import trimmed
from worker.__main__ import app
from worker.errors import StartupError
from worker.messages.records import Message
from worker.messages.verdict import verdict_message
from worker.operations.metrics import Metrics
from worker.scoring.cache import CachedScores, RedisCache
from worker.scoring.engine import ImageScores
from worker.settings import RedisSettings, Settings, load_settings
from worker.tools.capacity import (
    CACHED,
    BenchmarkFigures,
    CapacityModel,
    MeasuredRun,
    Parts,
    Turn,
    check,
    fit,
    read_measured,
)
from worker.tools.plan import (
    CLAIM_CHECK_BYTES,
    CLIENT_S_PER_BYTE,
    EVENT_ENVELOPE_BYTES,
    VERDICT_ENVELOPE_BYTES,
    Embedding,
    Load,
    Prices,
    embedding,
    plan,
    read_prices,
)
from worker.tools.produce import image_events

ROOT = Path(__file__).resolve().parents[3]
FILE = Path(__file__).with_name("measured.json")
PAGE = ROOT / "docs" / "capacity.md"

Change = Callable[[dict[str, Any]], object]


# The model ------------------------------------------------------------------------------------------------------------

PARTS = {
    "pipeline-bound": Parts(decode_s=0.0005, inference_s=0.0, client_s=0.0002, hash_s=0.0),
    "balanced": Parts(decode_s=0.001, inference_s=0.01, client_s=0.0002, hash_s=0.0),
    CACHED: Parts(decode_s=0.0, inference_s=0.0, client_s=0.0002, hash_s=0.0),
}
OWN, OWN_CACHED, BEAT, BROKER, BROKER_BEAT = 0.0004, 0.0001, 0.02, 0.00005, 0.01


def made_run(regime: str, processes: int, per_s: float) -> MeasuredRun:
    """A run with the costs that the model predicts."""
    own = OWN_CACHED if regime == CACHED else OWN
    worker = PARTS[regime].total_s + own + BEAT * processes / per_s
    return MeasuredRun(regime, processes, per_s, worker, BROKER + BROKER_BEAT * processes / per_s, 1200)


def made_figures(*runs: MeasuredRun) -> BenchmarkFigures:
    return BenchmarkFigures(Path("x.json"), "a machine", 2, "cpu", 20_000, PARTS, runs)


RUNS = (
    made_run("pipeline-bound", 1, 800),
    made_run("pipeline-bound", 2, 1400),
    made_run("balanced", 2, 150),
    made_run("balanced", 4, 145),
    made_run(CACHED, 1, 1600),
    made_run(CACHED, 2, 3000),
)


def test_the_fit_finds_the_costs_that_the_runs_were_made_of() -> None:
    model = fit(made_figures(*RUNS))
    found = (model.own_s, model.own_cached_s, model.beat, model.broker_s, model.broker_beat)
    assert found == pytest.approx((OWN, OWN_CACHED, BEAT, BROKER, BROKER_BEAT))
    assert (model.turn.seconds, model.turn_cached.seconds) == (1 / 800, 1 / 1600)
    filled = [RUNS[i].verdicts_per_s * (RUNS[i].worker_cpu_s + RUNS[i].broker_cpu_s) / 2 for i in (1, 2, 3)]
    assert model.busy == pytest.approx(sum(filled) / 3)


def test_no_cost_is_below_zero() -> None:
    cheap = [replace(run, worker_cpu_s=PARTS[run.regime].total_s * 0.9) for run in RUNS]
    model = fit(made_figures(*cheap))
    assert (model.own_s, model.own_cached_s, model.beat) == (0, 0, 0)


TURN = Turn(1 / 800, RUNS[0])
MODEL = CapacityModel(OWN, OWN_CACHED, BEAT, BROKER, BROKER_BEAT, 0.95, TURN, Turn(1 / 1600, RUNS[4]))


def test_a_machine_is_bound_by_its_cores_its_processes_or_its_device() -> None:
    balanced, light = PARTS["balanced"], PARTS["pipeline-bound"]
    by_cores = (0.95 * 2 - 4 * 0.03) / (0.0112 + 0.0004 + 0.00005)
    assert MODEL.machine_per_s(balanced, 4, 2) == pytest.approx(by_cores)
    assert MODEL.machine_per_s(light, 1, 64) == pytest.approx(800)
    assert MODEL.machine_per_s(light, 2, 64) == pytest.approx(1600)
    gpu = replace(light, device_per_s=500.0)
    assert MODEL.machine_per_s(gpu, 4, 64) == pytest.approx(500)
    assert MODEL.machine_per_s(gpu, 4, 64, cached_share=0.5) == pytest.approx(1000)
    assert MODEL.machine_per_s(balanced, 100, 2) == 0  # the beats use all of it


def test_a_worker_has_its_own_cores_and_no_broker_on_them() -> None:
    assert MODEL.worker_per_s(PARTS["balanced"], 1) == pytest.approx((0.95 - 0.02) / 0.0116)
    assert MODEL.worker_per_s(PARTS["balanced"], 64) == pytest.approx(800)
    half = (0.95 - 0.02) / (0.5 * 0.0116 + 0.5 * 0.0003)
    assert MODEL.worker_per_s(PARTS["balanced"], 1, cached_share=0.5) == pytest.approx(half)


def test_a_run_is_predicted_without_itself() -> None:
    """Wrong figures of a run do not change the prediction for it."""
    honest = check(made_figures(*RUNS))
    wrong = replace(RUNS[3], verdicts_per_s=10.0, worker_cpu_s=9.0, broker_cpu_s=9.0)
    found = check(made_figures(*RUNS[:3], wrong, *RUNS[4:]))
    assert found[3].model_per_s == pytest.approx(honest[3].model_per_s)
    assert found[3].ratio > 5
    sets = [c.sets for c in honest]
    assert sets == ["the turn of images that are scored", "", "", "", "the turn of cached images", ""]


# The measured file ----------------------------------------------------------------------------------------------------


def test_the_model_says_what_one_two_and_four_processes_did() -> None:
    checks = check(read_measured(FILE))
    predictions = {(c.run.regime, c.run.processes): c.ratio for c in checks if not c.sets}
    assert {("balanced", n) for n in (1, 2, 4)} <= predictions.keys()
    assert {("pipeline-bound", n) for n in (2, 4)} <= predictions.keys()
    assert (CACHED, 2) in predictions
    assert all(0.85 <= ratio <= 1.15 for ratio in predictions.values()), predictions
    assert len(checks) - len(predictions) == 2


def test_a_figure_that_no_machine_would_give_is_seen() -> None:
    measured = read_measured(FILE)
    runs = [
        replace(run, verdicts_per_s=run.verdicts_per_s / 2) if (run.regime, run.processes) == ("balanced", 4) else run
        for run in measured.runs
    ]
    ratios = {(c.run.regime, c.run.processes): c.ratio for c in check(replace(measured, runs=tuple(runs)))}
    assert ratios["balanced", 4] > 1.5


def test_the_committed_file_holds_what_a_plan_reads_and_no_more() -> None:
    document = json.loads(FILE.read_text())
    assert trimmed(document) == document
    assert document["options"]["quick"] is False
    assert FILE.stat().st_size < 20_000
    naive = copy.deepcopy(document)
    naive["measures"]["images"] += [{"name": "naive loop", "value": 1, "unit": "x", "parts": {"worker_cpu_s": 1}}]
    assert trimmed(naive) == document


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.pop("images"), "has no section 'images': run `make bench`"),
        (lambda m: m.pop("cached images"), "no run of 1 process in section 'cached images': run `make bench`"),
        (
            lambda m: [m.pop(title) for title in list(m) if "pipeline-bound" in title],
            "no run of 1 process in section 'pipeline-bound: …'",
        ),
        (
            lambda m: [m.pop(title) for title in list(m) if "balanced" in title],
            "no regime 'balanced', only model-bound",
        ),
        (lambda m: m["images"].append({"name": "limit"}), "not a file of `make bench`: KeyError"),
        (lambda m: [m.pop(title) for title in list(m) if title != "images"], "has no limit of any regime"),
    ],
)
def test_what_the_file_lacks_is_said_in_one_line(change: Change, expected: str, tmp_path: Path) -> None:
    document = json.loads(FILE.read_text())
    change(document["measures"])
    path = tmp_path / "worker.json"
    path.write_text(json.dumps(document))
    result = run_plan("--measured", str(path))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.parametrize(("text", "expected"), [("{", "not JSON"), ("[]", "not a file of"), ("{}", "not a file of")])
def test_what_is_no_such_file_is_said_in_one_line(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    path.write_text(text)
    with pytest.raises(StartupError, match=expected):
        read_measured(path)
    with pytest.raises(StartupError, match="No such file or directory: run `make bench`") as caught:
        read_measured(tmp_path / "none.json")
    assert (ROOT / str(caught.value).rpartition(" ")[2]).is_file()


# The plan -------------------------------------------------------------------------------------------------------------

LOAD = Load(
    images_per_day=864_000,
    peak_factor=3,
    cached_share=0.0,
    image_bytes=1_000_000,
    inline_share=0.5,
    deferred_share=0.1,
    rejected_share=0.01,
    verdict_readers=2,
    worker_cores=1,
)
MEASURED = made_figures(*RUNS)
SETTINGS = load_settings(None, ["topics.replication=2", "topics.images_retention_s=86400", "redis.ttl_s=172800"], {})


def test_ten_images_a_second_by_hand() -> None:
    found = plan(LOAD, MEASURED, MODEL, "balanced", SETTINGS, Embedding(512, 1))
    each = (0.95 - 0.02) / (0.0116 + 0.5 * 980_000 * CLIENT_S_PER_BYTE)
    event = 500_000 + CLAIM_CHECK_BYTES / 2 + EVENT_ENVELOPE_BYTES
    verdict = 1200 + VERDICT_ENVELOPE_BYTES
    assert (found.mean_per_s, found.peak_per_s) == (10, 30)
    assert found.worker_per_s == pytest.approx(each)
    assert found.workers == 2  # one for 30 a second, one that may be lost
    assert found.partitions == 12
    assert found.transactions_per_s == 20
    assert found.catch_up_s == pytest.approx(36_000 / (2 * each - 10))
    assert found.broker_in == pytest.approx(30 * (1.11 * event + verdict))
    assert found.broker_out == pytest.approx(30 * (1.1 * event + 2 * verdict))
    assert found.replication == pytest.approx(found.broker_in)
    assert found.deferred_waiting == 30 * 0.1 * 30
    assert (found.object_requests_per_s, found.object_bytes_per_s) == (15, 15_000_000)
    assert found.redis_entries == 2 * 864_000
    assert found.redis_bytes == 2 * 864_000 * Embedding(512, 1).entry_bytes()
    assert found.stored["images"] == pytest.approx(864_000 * event * 2)
    assert found.stored["images.retry"] == pytest.approx(7 * 864_000 * 0.1 * event * 2)
    assert found.stored["images.dead"] == pytest.approx(30 * 864_000 * 0.01 * event * 2)
    assert found.stored["verdicts"] == pytest.approx(7 * 864_000 * verdict * 2)


def test_the_busiest_hour_is_served_with_one_worker_lost() -> None:
    for images_per_day in (1, 1e5, 3e6, 7.3e7, 1e9, 1e11):
        load = replace(LOAD, images_per_day=images_per_day)
        found = plan(load, MEASURED, MODEL, "balanced", SETTINGS)
        assert (found.workers - 1) * found.worker_per_s >= found.peak_per_s
        assert found.workers == 2 or (found.workers - 2) * found.worker_per_s < found.peak_per_s
        assert found.partitions % 12 == 0
        assert found.partitions >= 2 * found.workers
        assert found.redis_bytes is None


def test_large_events_need_partitions_for_their_bytes() -> None:
    load = replace(LOAD, images_per_day=864_000_000, inline_share=1)
    endless = replace(MODEL, turn=Turn(1e-9, RUNS[0]))
    found = plan(load, MEASURED, endless, "balanced", SETTINGS)
    many_cores = plan(replace(load, worker_cores=1000), MEASURED, endless, "balanced", SETTINGS)
    assert many_cores.workers < found.workers
    assert many_cores.partitions >= 30_000 * 1_000_000 / (10 * 2**20)


def test_larger_images_take_longer_to_decode() -> None:
    small = replace(LOAD, image_bytes=20_000)
    found = plan(replace(small, decode_s=0.005), MEASURED, MODEL, "balanced", SETTINGS)
    assert found.worker_per_s == pytest.approx((0.95 - 0.02) / (0.0116 + 0.004))
    hashed = replace(MEASURED, parts={"balanced": replace(PARTS["balanced"], hash_s=0.001)})
    large = replace(small, image_bytes=60_000, inline_share=0.25)
    assert large.parts(hashed, "balanced").hash_s == pytest.approx(0.003)
    assert large.parts(hashed, "balanced").client_s == pytest.approx(0.0002 + 0.25 * 40_000 * CLIENT_S_PER_BYTE)
    assert replace(small, image_bytes=100).parts(hashed, "balanced").client_s == 0.0002


def test_a_worker_without_time_for_images_is_refused() -> None:
    with pytest.raises(StartupError, match=r"a worker of 0\.01 cores"):
        plan(replace(LOAD, worker_cores=0.01), MEASURED, MODEL, "balanced", SETTINGS)


def test_a_million_images_cost_what_their_parts_do() -> None:
    prices = Prices(worker_hour=0.5, redis_gib_hour=0.1, storage_gib_month=0.05, network_gib=0.01, object_million=0.4)
    found = plan(LOAD, MEASURED, MODEL, "balanced", SETTINGS, Embedding(512, 1), prices)
    days = 1 / 0.864
    assert found.redis_bytes is not None
    assert found.cost.workers == pytest.approx(2 * 24 * days * 0.5)
    assert found.cost.redis == pytest.approx(found.redis_bytes / 2**30 * 24 * days * 0.1)
    assert found.cost.storage == pytest.approx(sum(found.stored.values()) / 2**30 * days / 30 * 0.05)
    assert found.cost.network == pytest.approx(1e6 * (found.broker_in + found.broker_out) / 30 / 2**30 * 0.01)
    assert found.cost.objects == pytest.approx(0.2)
    assert found.cost.total() == pytest.approx(sum(v for v in asdict(found.cost).values()))
    some = plan(LOAD, MEASURED, MODEL, "balanced", SETTINGS, None, Prices(worker_hour=0.5, redis_gib_hour=0.1))
    assert (some.cost.redis, some.cost.network) == (None, None)
    assert some.cost.total() == some.cost.workers


def test_prices_come_from_a_file_and_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("worker_hour = 0.5\nnetwork_gib = 1\n")
    assert read_prices(path, ["network_gib=0.25"]) == Prices(worker_hour=0.5, network_gib=0.25)
    assert read_prices(None, []) == Prices()
    names = ", ".join(field.name for field in fields(Prices))
    for wrong, expected in {
        "gpu=1": f"price gpu: no such price; choose one of {names}",
        "worker_hour": "price worker_hour: expected a number of at least 0",
        "worker_hour=-1": "price worker_hour: expected a number of at least 0",
        "worker_hour=nan": "price worker_hour: expected a number of at least 0",
    }.items():
        with pytest.raises(StartupError, match=re.escape(expected)):
            read_prices(None, [wrong])
    with pytest.raises(StartupError, match=r"none\.toml"):
        read_prices(tmp_path / "none.toml", [])


def size(message: Message) -> int:
    """Bytes of key, value and headers, and about those of a record's framing."""
    framing = 12 + 2 * len(message.headers)
    return len(message.key or b"") + sum(len(name) + len(value) for name, value in message.headers) + framing


def test_envelopes_are_about_those_of_real_messages(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "0123456789abcdef.jpg").write_bytes(b"x")
    [event] = image_events(tmp_path, Settings(), kind="claim-check", uri_prefix="s3://a-bucket/with/some/folders/")
    assert size(event) == pytest.approx(EVENT_ENVELOPE_BYTES, rel=0.25)
    assert len(event.value) == pytest.approx(CLAIM_CHECK_BYTES, rel=0.25)
    traceparent = f"00-{'0' * 32}-{'0' * 16}-01"
    verdict = verdict_message(make_verdict(), topic="v", key=b"0123456789abcdef", traceparent=traceparent)
    assert size(verdict) == pytest.approx(VERDICT_ENVELOPE_BYTES, rel=0.25)


def memory_of_entries(server: "redis.Redis") -> int:
    """Bytes that the server uses, without the buffers of its clients, which it shrinks when it finds the time."""
    memory = server.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"])


@pytest.mark.integration
@pytest.mark.parametrize(("dimension", "views"), [(1, 1), (512, 1), (512, 5), (2048, 1)])
def test_an_entry_takes_as_much_memory_in_a_real_server(dimension: int, views: int, tmp_path: Path) -> None:
    """On a server of its own, since other tests change the memory of a shared one."""
    count = 5000
    facts = ImageFacts(format="JPEG", width=1024, height=768, bytes=200_000, animated=False)
    entry = CachedScores(facts, ImageScores(np.zeros(views, np.float32), np.zeros(dimension, np.float32)))
    with Valkey(tmp_path / "valkey.log") as valkey, redis.Redis.from_url(valkey.url) as server:
        settings = RedisSettings(url=SecretStr(valkey.url), timeout_s=10)
        with closing(RedisCache(settings, small_bundle(tmp_path / "bundle"), Metrics())) as cache:
            before = memory_of_entries(server)
            for start in range(0, count, 500):
                cache.put([(f"{number:064x}", entry) for number in range(start, start + 500)])
            each = (memory_of_entries(server) - before) / count
        assert server.dbsize() == count
    assert Embedding(dimension, views).entry_bytes() == pytest.approx(each, rel=0.1)


def test_a_bundle_says_what_the_cache_keeps_of_an_image(tmp_path: Path) -> None:
    manifest = small_bundle(tmp_path / "bundle").manifest
    assert embedding(manifest) == Embedding(dimension=1, views=1)
    model = manifest.detector
    for crop, views in (({"mode": "five", "size": 16}, 5), ({"mode": "grid", "size": 16, "stride": 8, "max": 9}, 9)):
        document = model.model_dump()
        document["preprocessing"]["views"][0]["crop"] = {**document["preprocessing"]["views"][0]["crop"], **crop}
        changed = manifest.model_copy(update={"models": (type(model).model_validate(document),)})
        assert embedding(changed).views == views


# The command and the page ---------------------------------------------------------------------------------------------


def run_plan(*arguments: str) -> Any:
    named = [] if "--measured" in arguments else ["--measured", str(FILE)]
    command = ["plan", "--images-per-day", "1e6", *named, *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def test_tables_for_people_show_the_plan_and_the_check() -> None:
    result = run_plan("--dimension", "512", "--price", "worker_hour=0.1")
    assert result.exit_code == 0, result.stderr
    for word in ("workers", "partitions", "Redis, memory", "per million images", "prediction", "sets the turn of"):
        assert word in result.stdout
    assert len(re.findall(r"balanced +│ [124] ", result.stdout)) == 3


def test_json_for_programs_has_the_same_figures(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    result = run_plan("--bundle", str(bundle.path), "--json", "--set", "topics.replication=1")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["plan"]["redis_entry_bytes"] == Embedding(1, 1).entry_bytes()
    assert document["plan"]["replication"] == 0
    assert document["load"]["image_bytes"] == read_measured(FILE).image_bytes
    for row in document["check"]:
        assert row["ratio"] == pytest.approx(row["model_per_s"] / row["verdicts_per_s"])
    measured = read_measured(FILE)
    found = plan(Load(**document["load"]), measured, fit(measured), "balanced", Settings())
    assert document["plan"]["workers"] == found.workers
    assert document["plan"]["peak_per_s"] == pytest.approx(2 * 1e6 / 86_400)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--regime", "heavy"], "no regime 'heavy', only model-bound, balanced, pipeline-bound"),
        (["--price", "gpu=1"], "price gpu"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--set", "topics.replicas=1"], "topics.replicas"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments: list[str], expected: str) -> None:
    result = run_plan(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def commands(page: str) -> list[tuple[list[str], str]]:
    """Each ``plan … --markdown`` in a block of code, and the text below that block."""
    joined = page.replace(" \\\n", " ")
    pieces = re.split(r"^    genprint (plan .*--markdown)$", joined, flags=re.MULTILINE)
    return [(shlex.split(command), below) for command, below in zip(pieces[1::2], pieces[2::2], strict=True)]


def test_the_page_has_the_figures_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands(PAGE.read_text())
    assert len(found) >= 2
    for command, below in found:
        printed = CliRunner().invoke(app, command)
        assert printed.exit_code == 0, printed.stderr
        tables = printed.stdout.strip().split("\n\n")
        assert len(tables) == 2
        assert any(table in below for table in tables), f"put this below it:\n{printed.stdout}"
    assert all(math.isfinite(c.ratio) for c in check(read_measured(FILE)))


def test_a_wrong_figure_on_the_page_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, below = commands(PAGE.read_text())[0]
    table = CliRunner().invoke(app, command).stdout.strip().split("\n\n")[0]
    assert table in below
    assert table not in below.replace("| `workers` | ", "| `workers` | 1")

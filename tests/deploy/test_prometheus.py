"""The rules: each alert fires when it should and only then, and each has its section in the runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.known_series import ROOT, RULES, faults, rules
from tests.deploy.promql import Selector, selectors
from worker.operations.metrics import Metrics

TESTS = Path(__file__).with_name("rules")
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool_says(promtool: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit status, and all that it printed."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def checks_of(alert: str) -> list[dict[str, Any]]:
    """What an alert's own tests look at."""
    cases = yaml.safe_load((TESTS / f"{alert}.yaml").read_text())["tests"]
    return [check for case in cases for check in case.get("promql_expr_test", ())]


def test_promtool_accepts_configuration_and_rules(promtool: Path) -> None:
    status, said = promtool_says(promtool, "check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert status == 0, said
    assert sum(int(count) for count in re.findall(r"(\d+) rules found", said)) == len(list(rules()))
    status, said = promtool_says(promtool, "check", "rules", *sorted(RULES.glob("*.yaml")))
    assert status == 0, said


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(promtool: Path, path: Path) -> None:
    status, said = promtool_says(promtool, "test", "rules", path)
    assert status == 0, said


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    for alert in ALERTS:
        named = [any(alert in sample["labels"] for sample in check["exp_samples"]) for check in checks_of(alert)]
        assert {True, False} == set(named), alert
    assert {path.stem for path in TESTS.glob("*.yaml")} == {*ALERTS, "healthy"}


# What a mistake would look like


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """Copies of rules and tests, beside each other as in the repository."""
    shutil.copytree(RULES, tmp_path / "deploy" / "prometheus" / "rules")
    shutil.copytree(TESTS, tmp_path / "tests" / "deploy" / "rules")
    return tmp_path


def expected(alert: str) -> set[str]:
    """The alerts that an alert's own tests expect to fire."""
    labels = [sample["labels"] for check in checks_of(alert) for sample in check["exp_samples"]]
    return {name for name in ALERTS if any(f'"{name}"' in text for text in labels)}


def rewrite(workshop: Path, alert: str, change: Any) -> None:
    """Apply ``change`` to the rule, and leave out the alerts that play no part in its tests: they take time."""
    kept = {None, alert, *expected(alert)}
    for path in (workshop / "deploy" / "prometheus" / "rules").glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group["rules"] = [rule for rule in group["rules"] if rule.get("alert") in kept]
            for rule in group["rules"]:
                if rule.get("alert") == alert:
                    change(rule)
        path.write_text(yaml.safe_dump(document))


def survives(promtool: Path, workshop: Path, alert: str) -> bool:
    """Whether the alert's own tests notice nothing."""
    status, said = promtool_says(promtool, "test", "rules", workshop / "tests" / "deploy" / "rules" / f"{alert}.yaml")
    assert status == 0 or "FAILED" in said, said
    return status == 0


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_or_always_fires_fails_its_tests(promtool: Path, workshop: Path, alert: str) -> None:
    expr = ALERTS[alert]["expr"]
    rewrite(workshop, alert, lambda rule: rule.update(expr=f"({expr}) and on () vector(1) > 2"))
    assert not survives(promtool, workshop, alert)
    rewrite(workshop, alert, lambda rule: rule.update(expr="vector(1)"))
    assert not survives(promtool, workshop, alert)


@pytest.mark.parametrize("alert", ["GenprintWorkerDown", "GenprintLatencyBudgetBurnsFast"])
def test_a_rewritten_rule_passes_its_tests_if_nothing_was_changed(promtool: Path, workshop: Path, alert: str) -> None:
    rewrite(workshop, alert, dict)
    assert survives(promtool, workshop, alert)


@pytest.mark.parametrize(
    ("alert", "old", "new"),
    [
        ("GenprintRejectShare", "> 0.1", "> 0.3"),
        ("GenprintRejectShare", "> 50", "> 5"),
        ("GenprintLagGrowing", "60 *", "1 *"),
        ("GenprintLagGrowing", "deriv(job:genprint_lag_records:sum[15m]) > 0", "job:genprint_lag_records:sum > 0"),
        ("GenprintNoVerdicts", "min_over_time", "max_over_time"),
        ("GenprintDeferrals", "> 0.1", "> 0.5"),
        ("GenprintShareDrift", "> 4 *", "> 0 *"),
        ("GenprintShareDrift", "> 500", "> 5"),
        ("GenprintShareDrift", "offset 1d", "offset 1m"),
        ("GenprintLatencyBudgetBurnsFast", "> 14.4", "> 24.4"),
        ("GenprintLatencyBudgetBurnsFast", '{window="5m"}', '{window="1h"}'),
        ("GenprintLatencyBudgetBurnsFast", "> 100", "> 1"),
        ("GenprintLatencyBudgetBurnsSlowly", "> 1", "> 2"),
    ],
)
def test_a_changed_threshold_fails_the_tests_of_its_alert(
    promtool: Path, workshop: Path, alert: str, old: str, new: str
) -> None:
    assert old in ALERTS[alert]["expr"]
    rewrite(workshop, alert, lambda rule: rule.update(expr=rule["expr"].replace(old, new)))
    assert not survives(promtool, workshop, alert)


def test_a_changed_objective_fails_the_tests_of_its_alerts(promtool: Path, workshop: Path) -> None:
    path = workshop / "deploy" / "prometheus" / "rules" / "latency.yaml"
    path.write_text(path.read_text().replace("vector(0.99)", "vector(0.95)"))
    assert not survives(promtool, workshop, "GenprintLatencyBudgetBurnsSlowly")


# The runbook


def sections() -> set[str]:
    return set(re.findall(r"^### (Genprint\w+)$", RUNBOOK.read_text(), re.MULTILINE))


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    assert sections() == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_whoever_is_woken_needs(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = RUNBOOK.read_text().partition(f"### {alert}\n")[2].partition("\n#")[0]
    assert f"*{rule['labels']['severity'].capitalize()}" in section


# Names


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.get("record") or rule.get("alert"))
def test_rules_read_series_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("sum(rate(genprint_event_total[5m]))", "genprint_event_total: no such series"),
        ('genprint_events_total{outcom="verdict"}', "genprint_events_total: no label outcom"),
        ("sum by (outcom) (genprint_events_total)", "no series here has a label outcom"),
        ("genprint_score > 1", "genprint_score: no such series"),
        ("job:genprint_lag:sum", "job:genprint_lag:sum: no such series"),
        ('job:genprint_lag_records:sum{instance="a"}', "job:genprint_lag_records:sum: no label instance"),
    ],
)
def test_a_misspelt_name_is_noticed(expr: str, fault: str) -> None:
    assert faults(expr) == [fault]


def test_selectors_are_told_from_everything_else() -> None:
    expr = 'sum by (le) (rate(a_total{x="}", y!~"(b)"}[5m] offset 1d)) / on (j) group_left (k) b > 2e3 and c:d:e'
    expr += " or vector(0)"
    found = list(selectors(expr))
    assert found == [Selector("a_total", frozenset("xy")), Selector("b", frozenset()), Selector("c:d:e", frozenset())]


def test_the_objective_is_stated_once_and_its_time_is_an_edge_of_the_histogram() -> None:
    text = "\n".join(path.read_text() for path in RULES.glob("*.yaml"))
    [edge] = re.findall(r'le="([^"]*)"', text)
    assert len(re.findall(r"expr: vector\(0\.\d+\)", text)) == 1
    metrics = Metrics()
    metrics.stage_seconds.labels("total").observe(1)
    edges = {s.labels["le"] for m in metrics.registry.collect() for s in m.samples if s.name.endswith("seconds_bucket")}
    assert edge in edges
    assert f"within {float(edge):g} s of" in (RULES / "latency.yaml").read_text()
    assert f"within {float(edge):g} s of" in RUNBOOK.read_text()

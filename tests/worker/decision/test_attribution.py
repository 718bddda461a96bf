"""From scores to a verdict, with the labels, thresholds and templates of the small bundle."""

import json
import math
from dataclasses import asdict

import jsonschema
import numpy as np
import pytest

from bundle.preprocess import ImageFacts
from bundle.store import Bundle
from tests.worker.small_bundle import small_bundle
from worker.decision.attribution import Attributor, ScoredImage
from worker.messages.events import ClaimCheck, ImageEvent, InlineImage
from worker.messages.verdict import TimingPart, Verdict, verdict_schema
from worker.scoring.engine import ImageScores
from worker.settings import PolicySettings

EVENT = ImageEvent("7", "urn:a", "cat.png", "images/1/5", 2, {"tenant": "t"}, None, InlineImage(b""))
NOW = TimingPart(queue=1, fetch=2, decode=3, inference=4, total=10)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


def verdict_on(
    bundle: Bundle,
    logits: list[float],
    embedding: float | None,
    *,
    event: ImageEvent = EVENT,
    animated: bool = False,
    ambiguous: bool = False,
    policy: PolicySettings | None = None,
) -> Verdict:
    facts = ImageFacts("PNG", 30, 20, 500, animated, ambiguous)
    vector = np.array([] if embedding is None else [embedding], np.float32)
    image = ScoredImage("f" * 64, facts, ImageScores(np.array(logits, np.float32), vector), cached=True, timing=NOW)
    verdict = Attributor(bundle, policy or PolicySettings(), "run").verdict(event, image)
    jsonschema.validate(json.loads(verdict.to_json()), verdict_schema())
    return verdict


def test_a_batch_gets_the_verdicts_of_its_images_alone(bundle: Bundle) -> None:
    facts = ImageFacts("PNG", 30, 20, 500, animated=False)
    vectors = [[BRIGHT], [], [NEITHER], [REAL]]
    images = [
        ScoredImage(str(n) * 64, facts, ImageScores(np.array([1.0], np.float32), np.array(v, np.float32)), False, NOW)
        for n, v in enumerate(vectors)
    ]
    attributor = Attributor(bundle, PolicySettings(), "run")
    together = attributor.verdicts([(EVENT, image) for image in images])
    alone = [attributor.verdict(EVENT, image) for image in images]
    assert [v.image.sha256[0] for v in together] == ["0", "1", "2", "3"]
    assert [v.attribution for v in together] == [v.attribution for v in alone]
    assert together[1].attribution.candidates == ()
    assert attributor.verdicts([]) == []


# Thresholds 0.3 and 0.7; templates at 220 (bright) and 40 (real) accept up to a distance of about 60.
BRIGHT, REAL, NEITHER = 215.0, 45.0, 500.0
HIGH, LOW, MIDDLE = 5.0, -5.0, 0.1


@pytest.mark.parametrize(
    ("logit", "embedding", "decision", "source", "conflict", "action"),
    [
        (HIGH, BRIGHT, "generated", "bright", False, "block"),
        (HIGH, NEITHER, "generated", "unknown", False, "block"),
        (HIGH, REAL, "unsure", None, True, "review"),
        (LOW, BRIGHT, "unsure", "bright", True, "review"),
        (LOW, REAL, "real", None, False, "allow"),
        (LOW, NEITHER, "unsure", "unknown", False, "review"),
        (MIDDLE, BRIGHT, "unsure", None, False, "review"),
    ],
)
def test_table(
    bundle: Bundle, logit: float, embedding: float, decision: str, source: str | None, conflict: bool, action: str
) -> None:
    found = verdict_on(bundle, [logit], embedding)
    assert (found.generated.decision, found.attribution.source) == (decision, source)
    assert (found.attribution.conflict, found.action) == (conflict, action)


def test_numbers(bundle: Bundle) -> None:
    found = verdict_on(bundle, [1.0, 3.0], BRIGHT)
    expected = 1 / (1 + math.exp(-2))  # mean of the views, scale 1, bias 0
    assert found.generated.probability == pytest.approx(expected)
    [score] = found.generated.scores
    assert (score.model, score.logit, score.probability) == ("brightness", 2.0, found.generated.probability)
    assert [(c.label, c.distance) for c in found.attribution.candidates] == [("bright", 5.0), ("real", 175.0)]
    assert found.attribution.distance == 5.0
    calibration = np.linspace(0, 60, 200)
    assert found.attribution.p_value == pytest.approx((1 + (calibration >= 5).sum()) / 201)


def test_identity_and_facts_are_carried(bundle: Bundle) -> None:
    found = verdict_on(bundle, [HIGH], BRIGHT)
    assert asdict(found.event) == {
        "id": "7",
        "source": "urn:a",
        "subject": "cat.png",
        "origin": "images/1/5",
        "attempt": 2,
        "attributes": {"tenant": "t"},
        "origin_topic_id": None,
    }
    assert (found.run_id, found.verdict_id) == ("run", EVENT.verdict_id("run"))
    assert (found.image.sha256, found.image.width, found.image.height, found.image.bytes) == ("f" * 64, 30, 20, 500)
    assert (found.bundle.name, found.bundle.digest) == ("brightness", bundle.digest)
    assert found.attribution.library_version == f"bundle:{bundle.templates.version}"
    assert (found.cached, found.timing_ms) == (True, NOW)


@pytest.mark.parametrize(("prior", "decision"), [(None, "generated"), (0.5, "generated"), (0.001, "unsure")])
def test_the_prior_of_the_settings_shifts_the_probability(bundle: Bundle, prior: float | None, decision: str) -> None:
    found = verdict_on(bundle, [3.0], NEITHER, policy=PolicySettings(prior_generated=prior))
    odds = math.exp(3) * (1 if prior is None else prior / (1 - prior))
    assert found.generated.probability == pytest.approx(odds / (1 + odds))
    assert found.generated.decision == decision


def test_views_that_disagree(bundle: Bundle) -> None:
    found = verdict_on(bundle, [HIGH, LOW, HIGH, HIGH], BRIGHT)
    assert (found.generated.decision, found.generated.reasons) == ("unsure", ("views_disagree",))
    assert found.attribution.source is None
    assert found.attribution.candidates


def test_an_image_without_views(bundle: Bundle) -> None:
    found = verdict_on(bundle, [], None)
    assert (found.generated.decision, found.generated.reasons) == ("unsure", ("image_too_small",))
    assert found.generated.probability is None
    assert not found.generated.scores
    assert not found.attribution.candidates
    assert found.attribution.distance is found.attribution.p_value is None


def test_an_animation_has_a_reason_that_names_its_first_frame(bundle: Bundle) -> None:
    assert verdict_on(bundle, [HIGH], BRIGHT, animated=True).generated.reasons == ("animated_first_frame",)


def test_a_verdict_says_that_viewers_may_show_another_picture(bundle: Bundle) -> None:
    found = verdict_on(bundle, [HIGH], BRIGHT, ambiguous=True)
    assert (found.generated.decision, found.generated.reasons) == ("generated", ("ambiguous_rendering",))


def test_actions_are_a_setting(bundle: Bundle) -> None:
    policy = PolicySettings(real="a", generated="b", unsure="c")
    scored = [([LOW], REAL), ([HIGH], BRIGHT), ([MIDDLE], REAL)]
    assert [verdict_on(bundle, logits, e, policy=policy).action for logits, e in scored] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (InlineImage(b""), None),
        (ClaimCheck("https://me:secret@h/x.png?sig=secret#y", None), "https://h/x.png"),
        (ClaimCheck("http://[::1", None), None),
    ],
)
def test_addresses_are_shown_without_their_secrets(
    bundle: Bundle, content: InlineImage | ClaimCheck, shown: str | None
) -> None:
    event = ImageEvent("7", "s", None, "o", 1, {}, None, content)
    verdict = verdict_on(bundle, [HIGH], BRIGHT, event=event)
    assert verdict.image.uri == shown
    assert b"secret" not in verdict.to_json()


@pytest.mark.parametrize("logit", [-3e38, 3e38])
def test_the_largest_logits_are_probabilities(bundle: Bundle, logit: float) -> None:
    assert verdict_on(bundle, [logit], BRIGHT).generated.probability == (logit > 0)


def test_an_embedding_far_away_is_unknown(bundle: Bundle) -> None:
    assert verdict_on(bundle, [HIGH], 1e15).attribution.source == "unknown"

"""From scores to a verdict, with the current prior, templates and policy: nothing of this is cached."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bundle.preprocess import ImageFacts
from bundle.scores import aggregate_logits, band, probability, views_disagree
from bundle.store import Bundle
from bundle.templates import Match
from worker.decision.table import judge
from worker.messages.events import ClaimCheck, ImageEvent, public_uri
from worker.messages.verdict import (
    AttributionPart,
    BundlePart,
    CandidatePart,
    EventPart,
    GeneratedPart,
    ImagePart,
    ScorePart,
    TimingPart,
    Verdict,
    timestamp,
)
from worker.scoring.engine import ImageScores
from worker.settings import PolicySettings

ANIMATED = "animated_first_frame"
"""A reason that verdicts give: only the first frame of the animation was looked at."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image with the scores that the models gave it."""

    sha256: str
    facts: ImageFacts
    scores: ImageScores
    cached: bool
    timing: TimingPart


class Attributor:
    """Applies a bundle's calibration, thresholds and templates, and the worker's policy."""

    def __init__(self, bundle: Bundle, policy: PolicySettings, run_id: str) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._policy = policy
        self._run_id = run_id
        self._real_labels = manifest.real_labels
        self._actions = {"real": policy.real, "generated": policy.generated, "unsure": policy.unsure}
        self._identity = BundlePart(name=manifest.name, version=manifest.version, digest=bundle.digest)
        self._library_version = bundle.library_version

    def verdict(self, event: ImageEvent, image: ScoredImage) -> Verdict:
        """The verdict on one image."""
        return self.verdicts([(event, image)])[0]

    def verdicts(self, scored: Sequence[tuple[ImageEvent, ScoredImage]]) -> list[Verdict]:
        """One verdict for each image, in order; the template library is searched once for all."""
        embeddings = [image.scores.embedding for _, image in scored if len(image.scores.embedding)]
        matches: Iterator[Match] = iter(())
        if embeddings:
            templates = self._bundle.manifest.templates
            matches = iter(self._bundle.templates.match(np.stack(embeddings), templates.alpha))
        return [
            self._verdict(event, image, next(matches) if len(image.scores.embedding) else None)
            for event, image in scored
        ]

    def _verdict(self, event: ImageEvent, image: ScoredImage, match: Match | None) -> Verdict:
        """Combine detector and templates; see ``worker.decision.table`` for the rules."""
        manifest, scores = self._bundle.manifest, image.scores
        chance, one_logit, disagree = None, None, False
        if len(scores.logits):
            one_logit = aggregate_logits(scores.logits, manifest.detector.logit_over_views)
            prior = self._policy.prior_generated
            chance = probability(one_logit, manifest.calibration, prior)
            disagree = views_disagree(scores.logits, manifest.calibration, manifest.thresholds, prior)
        accepted = match.candidates[0].label if match and match.accepted else None
        judgement = judge(
            None if chance is None else band(chance, manifest.thresholds),
            accepted,
            is_real=accepted in self._real_labels,
            views_disagree=disagree,
            ambiguous=image.facts.ambiguous,
        )
        reasons = judgement.reasons + ((ANIMATED,) if image.facts.animated else ())
        candidates = match.candidates if match else ()
        model_scores: tuple[ScorePart, ...] = ()
        if one_logit is not None and chance is not None:
            model_scores = (ScorePart(model=manifest.detector.name, logit=one_logit, probability=chance),)
        facts = image.facts
        return Verdict(
            verdict_id=event.verdict_id(self._run_id),
            event=EventPart(
                id=event.id,
                source=event.source,
                subject=event.subject,
                origin=event.origin,
                attempt=event.attempt,
                attributes=event.attributes,
                origin_topic_id=event.origin_topic_id,
            ),
            run_id=self._run_id,
            image=ImagePart(
                sha256=image.sha256,
                format=facts.format,
                width=facts.width,
                height=facts.height,
                bytes=facts.bytes,
                uri=public_uri(event.content.uri) if isinstance(event.content, ClaimCheck) else None,
            ),
            generated=GeneratedPart(
                probability=chance, decision=judgement.decision, reasons=reasons, scores=model_scores
            ),
            attribution=AttributionPart(
                source=judgement.source,
                conflict=judgement.conflict,
                distance=candidates[0].distance if candidates else None,
                p_value=match.p_value if match else None,
                candidates=tuple(CandidatePart(label=c.label, distance=c.distance) for c in candidates),
                library_version=self._library_version,
            ),
            action=self._actions[judgement.decision],
            bundle=self._identity,
            cached=image.cached,
            timing_ms=image.timing,
            decided_at=timestamp(time.time()),
        )

"""A complete verdict for tests of its JSON."""

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
)


def make_verdict(
    *, event_id: str = "7", subject: str | None = "cat.png", attributes: dict[str, str] | None = None
) -> Verdict:
    """A complete verdict; only fields given as None by the arguments are null."""
    return Verdict(
        verdict_id="b8a6b0a4-0000-5000-8000-000000000000",
        event=EventPart(
            id=event_id, source="urn:a", subject=subject, origin="images/1/5", attempt=1, attributes=attributes or {}
        ),
        run_id="live",
        image=ImagePart(sha256="0" * 64, format="PNG", width=8, height=9, bytes=100, uri="https://h/x"),
        generated=GeneratedPart(
            probability=0.9,
            decision="generated",
            reasons=(),
            scores=(ScorePart(model="m", logit=2.0, probability=0.9),),
        ),
        attribution=AttributionPart(
            source="gan",
            conflict=False,
            distance=0.5,
            p_value=0.3,
            candidates=(CandidatePart(label="gan", distance=0.5),),
            library_version="bundle:0",
        ),
        action="block",
        bundle=BundlePart(name="b", version="1", digest="0" * 64),
        cached=False,
        timing_ms=TimingPart(queue=1, fetch=0, decode=1, inference=1, total=3),
        decided_at="2026-01-01T00:00:00.000Z",
    )

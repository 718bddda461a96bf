"""How detector and templates combine into a decision: the table of the design, as a pure function.

=========  =========================  ==========================  ==========================
detector   nearest accepted template  decision                    source
=========  =========================  ==========================  ==========================
high       a generator                generated                   its label
high       none                       generated                   unknown
high       real                       unsure, conflict            null
low        a generator                unsure, conflict            its label
low        real                       real                        null
low        none                       unsure                      unknown
otherwise  any                        unsure                      null (candidates only)
=========  =========================  ==========================  ==========================

Where viewers may show another picture than the one that was judged (``ImageFacts.ambiguous``), *real* is unsure.

*Unknown* means that no template explains the image; by itself it is no evidence of generation.
"""

from dataclasses import dataclass, replace

from bundle.scores import Band
from worker.messages.verdict import Decision

UNKNOWN = "unknown"
AMBIGUOUS = "ambiguous_rendering"
"""A reason that verdicts give: viewers may show another picture than the one that was judged."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision and why; ``source`` is a label, ``unknown`` or None."""

    decision: Decision
    source: str | None
    conflict: bool
    reasons: tuple[str, ...]


def judge(
    band: Band | None, accepted: str | None, *, is_real: bool, views_disagree: bool, ambiguous: bool = False
) -> Judgement:
    """Combine the detector's band with the label of the nearest template that accepts the image.

    Args:
        band: None where the image is too small for any view.
        accepted: label of the nearest template, or None if it rejects the image.
        is_real: whether ``accepted`` is a label of photographs.
        views_disagree: whether one view alone would be called generated and another real.
        ambiguous: whether viewers may show another picture than the one that was judged.
    """
    found = _combined(band, accepted, is_real=is_real, views_disagree=views_disagree)
    if not ambiguous:
        return found
    decision: Decision = "unsure" if found.decision == "real" else found.decision
    return replace(found, decision=decision, reasons=(*found.reasons, AMBIGUOUS))


def _combined(band: Band | None, accepted: str | None, *, is_real: bool, views_disagree: bool) -> Judgement:
    if band is None:
        return Judgement("unsure", None, conflict=False, reasons=("image_too_small",))
    if views_disagree:
        return Judgement("unsure", None, conflict=False, reasons=("views_disagree",))
    match (band, accepted):
        case ("high", None):
            return Judgement("generated", UNKNOWN, conflict=False, reasons=("no_template",))
        case ("high", _) if is_real:
            return Judgement("unsure", None, conflict=True, reasons=("conflict",))
        case ("high", label):
            return Judgement("generated", label, conflict=False, reasons=())
        case ("low", None):
            return Judgement("unsure", UNKNOWN, conflict=False, reasons=("no_template",))
        case ("low", _) if is_real:
            return Judgement("real", None, conflict=False, reasons=())
        case ("low", label):
            return Judgement("unsure", label, conflict=True, reasons=("conflict",))
        case _:
            return Judgement("unsure", None, conflict=False, reasons=("detector_unsure",))

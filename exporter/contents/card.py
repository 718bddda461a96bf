"""The model card: what a person should know before trusting a bundle."""

import math

from bundle.manifest import Evaluation, Label, Manifest, OperatingPoint
from bundle.templates import TemplateLibrary

_CARD = """\
# {name} {version}

Tells photographs from generated images and names the generator by the nearest template. Made by Genprint:
{network} ({source}).

## Labels

| label | kind | training images | template made of | calibration images |
|---|---|---:|---:|---:|
{labels}
{degraded}{added}
## Measured when it was made

| images | count | top-1 by template | AUROC | AP |
|---|---:|---:|---:|---:|
{evaluation}

`{calib}` chose calibration, thresholds and rejection; only `test`, where there is one, was kept out of everything.

## Decision

Probability = sigmoid({scale:.4f} x logit {bias:+.4f}) for a share of {prior:.0%} generated images; the worker shifts it
to the share you expect.

| threshold | value | error on calibration images | 95 % interval | images |
|---|---:|---|---|---:|
{thresholds}

A template accepts an image whose conformal p-value is above {alpha:g}, so about that share of a label's own images is
called unknown, if they resemble the calibration images. A label with fewer than {needed} calibration images can reject
nothing.

## Limits

- It knows the generators above. Others may be called unknown, be named wrongly, or pass as real.
- Measured on images like its own; recompressed, resized or edited ones are harder, and were not measured here unless a
  row above says so.
- A verdict is evidence for a reviewer, not proof about a person.
"""

_DEGRADED = """
Half of the calibration images are copies of the other half, made smaller and back, blurred, coded as JPEG or reduced to
a palette: thresholds and rejection are for images like both.
"""

_ADDED = """
Labels without training images were added by a template alone. The decision between real and generated does not know
them: where it says *real* of an image that such a template accepts, the verdict is *unsure*.
"""


def model_card(manifest: Manifest, library: TemplateLibrary) -> str:
    """Markdown, from nothing but the manifest and the templates."""
    calibration, alpha = manifest.calibration, manifest.templates.alpha
    thresholds = {"generated from": manifest.thresholds.high, "real below": manifest.thresholds.low}
    return _CARD.format(
        name=manifest.name,
        version=manifest.version,
        network=manifest.training["network"],
        source=manifest.training["source"],
        labels="\n".join(_label(label, manifest, library) for label in manifest.labels),
        degraded=_DEGRADED if manifest.training["calibrated_on_degraded"] else "",
        added="" if all(label.in_detector for label in manifest.labels) else _ADDED,
        calib=next(name for name in manifest.evaluation if name != "test"),
        evaluation="\n".join(_evaluation(name, found) for name, found in manifest.evaluation.items()),
        scale=calibration.scale,
        bias=calibration.bias,
        prior=calibration.prior_generated,
        thresholds="\n".join(_threshold(name, point) for name, point in thresholds.items()),
        alpha=alpha,
        needed=max(1, math.ceil(1 / alpha) - 1),  # smallest n with 1 / (n + 1) <= alpha
    )


def _label(label: Label, manifest: Manifest, library: TemplateLibrary) -> str:
    index = library.labels.index(label.name)
    template = int(library.counts[library.label_of == index].sum())
    trained, held_out = manifest.training["images"].get(label.name, 0), len(library.calibration[index])
    return f"| {label.name} | {label.kind} | {trained} | {template} | {held_out} |"


def _evaluation(name: str, found: Evaluation) -> str:
    scores = (found.top1_by_template, found.auroc, found.average_precision)
    return f"| {name} | {found.images} | {' | '.join('' if s is None else f'{s:.4f}' for s in scores)} |"


def _threshold(name: str, point: OperatingPoint) -> str:
    low, high = point.interval_95
    observed = f"{point.error.replace('_', ' ')} {point.observed:.4f}"
    return f"| {name} | {point.threshold:.4f} | {observed} | {low:.4f} to {high:.4f} | {point.count} |"

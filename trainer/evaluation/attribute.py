"""The generator of each image of any folder, by a checkpoint's templates, or *unknown* where no label explains it."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from trainer.arrays import Flags, Numbers
from trainer.choices import TemplateMethod
from trainer.data.folder import ImageFolder
from trainer.errors import DataMissing, UnknownClass
from trainer.evaluation.evaluate import calibrates_on_degraded, degraded_copies
from trainer.evaluation.metrics import Proportion, auroc, proportion
from trainer.evaluation.open_set import DistanceCalibration
from trainer.evaluation.templates import templates_of
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import embed


class FolderAttribution(BaseModel):
    """The figures of one sub-folder."""

    model_config = ConfigDict(frozen=True)

    images: int
    label: str | None
    """The label that the sub-folder is mapped to or named for; None where it is none of the checkpoint's."""
    generated: Proportion
    """Images with log-odds above 0."""
    unknown: Proportion
    """Images that no label explains at alpha."""
    named: dict[str, int]
    """How many of the other images are nearest to each label."""
    right: Proportion | None
    """Images nearest to ``label``, unknown or not; None where there is no label."""
    auroc: float | None
    """How well the score ranks images of known labels above these; None where these are known, or no image is."""


class Overall(BaseModel):
    """The figures of all images that have a label, each image counted alike."""

    model_config = ConfigDict(frozen=True)

    images: int
    right: Proportion
    unknown: Proportion


class Attribution(BaseModel):
    """The figures of ``trainer attribute``, as ``--json`` prints them."""

    model_config = ConfigDict(frozen=True)

    alpha: float
    template: TemplateMethod
    calibrated_on_degraded: bool
    """Whether calibration saw degraded copies as well."""
    folders: dict[str, FolderAttribution]
    overall: Overall | None
    """None where no sub-folder has a label."""


def attribute(
    checkpoint: Checkpoint,
    images: ImageFolder,
    templates: ImageFolder,
    calibration: ImageFolder,
    method: TemplateMethod,
    alpha: float = 0.05,
    seed: int = 0,
    *,
    calibrate_degraded: bool | None = None,
    mapped: Mapping[str, str] | None = None,
) -> Attribution:
    """Name or reject every image by the nearest template, as a bundle of this checkpoint does.

    Args:
        checkpoint: the network.
        images: sub-folders of images; one that is named for a label, or mapped to one, is known.
        templates: images to take the templates from: the training folder.
        calibration: other images of the same labels, which say how far from its template a label's images lie; images
            of other classes are ignored.
        method: what a label's template is.
        alpha: share of known images that may be rejected.
        seed: draws the image of the method ``one``.
        calibrate_degraded: calibrate on degraded copies of the calibration images as well; None: as the exporter does
            by default.
        mapped: sub-folder -> label, for those that are named otherwise.

    Raises:
        BadConfig: the system has no templates of its own.
        DataMissing: a label without an image to make a template of, or to calibrate on.
        UnknownClass: the templates' folder has a class that is no label, or ``mapped`` names a sub-folder or a label
            that is not there.
    """
    model = checkpoint.model()
    names = [label.name for label in checkpoint.labels]
    for folder, use in ((templates, "make templates of"), (calibration, "calibrate on")):
        if missing := sorted({*names} - {*folder.classes}):
            raise DataMissing(f"{folder.root}: no images of {', '.join(missing)} to {use}")
    label_of = _label_ids_of_folders(images, names, mapped or {})
    library = templates_of(checkpoint, templates, lambda images: embed(model, images)[1], method, seed)
    degraded = calibrates_on_degraded(checkpoint, calibrate_degraded)
    seen = [embed(model, calibration)[1]]
    if degraded:
        seen += [embed(model, copies)[1] for copies in degraded_copies(calibration)]
    own = np.tile(_label_ids(calibration.classes, names)[calibration.labels], 1 + degraded)
    held_out = np.concatenate(seen)
    library = library.with_calibration({name: held_out[own == i] for i, name in enumerate(names)})
    logits, embeddings = embed(model, images)
    matches = DistanceCalibration.of_library(library).match(library.distances(embeddings))
    true_ids = label_of[images.labels]
    known, right, unknown = true_ids >= 0, matches.nearest == true_ids, matches.p_value <= alpha
    folders = {}
    for number, name in enumerate(images.classes):
        label = names[label_of[number]] if label_of[number] >= 0 else None
        these = images.labels == number
        counts = np.bincount(matches.nearest[these & ~unknown], minlength=len(names)).tolist()
        against = None
        if label is None and known.any():
            against = auroc(matches.score[known | these], known[known | these])
        folders[name] = FolderAttribution(
            images=int(these.sum()),
            label=label,
            generated=_share(logits > 0, these),
            unknown=_share(unknown, these),
            named={nearest: count for nearest, count in zip(names, counts, strict=True) if count},
            right=None if label is None else _share(right, these),
            auroc=against,
        )
    overall = None
    if known.any():
        overall = Overall(images=int(known.sum()), right=_share(right, known), unknown=_share(unknown, known))
    return Attribution(alpha=alpha, template=method, calibrated_on_degraded=degraded, folders=folders, overall=overall)


def _label_ids_of_folders(images: ImageFolder, names: Sequence[str], mapped: Mapping[str, str]) -> Numbers:
    """The index of each sub-folder's label, or -1: ``int64[C]``."""
    if missing := [folder for folder in mapped if folder not in images.classes]:
        raise UnknownClass(f"--map: {images.root} has no folder {missing[0]!r}, only {', '.join(images.classes)}")
    if strange := [label for label in mapped.values() if label not in names]:
        raise UnknownClass(f"--map: the checkpoint has no class {strange[0]!r}, only {', '.join(names)}")
    return _label_ids([mapped.get(folder, folder) for folder in images.classes], names)


def _label_ids(classes: Sequence[str], names: Sequence[str]) -> Numbers:
    return np.array([names.index(name) if name in names else -1 for name in classes], np.int64)


def _share(hits: Flags, among: Flags) -> Proportion:
    return proportion(int((hits & among).sum()), int(among.sum()))


def show(attribution: Attribution, console: Console) -> None:
    """Print the figures as a table."""
    copies = ", calibrated on degraded copies as well" if attribution.calibrated_on_degraded else ""
    title = (
        f"Nearest template ({attribution.template}), unknown at alpha {attribution.alpha:g}{copies}; "
        "shares with 95 % intervals"
    )
    table = Table("folder", "images", "generated", "right", "unknown", "AUROC known : this", "named", title=title)
    for name, found in attribution.folders.items():
        named = ", ".join(f"{label} {count}" for label, count in sorted(found.named.items(), key=lambda n: -n[1]))
        table.add_row(
            name if found.label in {None, name} else f"{name} = {found.label}",
            str(found.images),
            _shown(found.generated),
            "-" if found.right is None else _shown(found.right),
            _shown(found.unknown),
            "-" if found.auroc is None else f"{found.auroc:.3f}",
            named or "-",
        )
    if attribution.overall is not None:
        known = attribution.overall
        table.add_section()
        table.add_row("all known", str(known.images), "-", _shown(known.right), _shown(known.unknown), "-", "-")
    console.print(table)


def _shown(found: Proportion) -> str:
    return f"{found.rate:.3f} [{found.low:.3f}, {found.high:.3f}]"

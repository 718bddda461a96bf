"""What a checkpoint says of any folder: which family made an image, or that none it knows did."""

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
from trainer.evaluation.open_set import Calibration
from trainer.evaluation.templates import templates_of
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import embed


class FolderAttribution(BaseModel):
    """On the images of one sub-folder."""

    model_config = ConfigDict(frozen=True)

    images: int
    label: str | None
    """What the sub-folder is mapped to or named for; None where that is no label."""
    generated: Proportion
    """Log-odds above 0."""
    unknown: Proportion
    """Explained by no label at alpha."""
    named: dict[str, int]
    """The others, by their nearest label."""
    right: Proportion | None
    """Nearest to ``label``, unknown or not; None where there is none."""
    auroc: float | None
    """Of the images of known labels against these, by how known they look; None where these are known, or none is."""


class Overall(BaseModel):
    """On the images of all sub-folders that have a label, each image counted alike."""

    model_config = ConfigDict(frozen=True)

    images: int
    right: Proportion
    unknown: Proportion


class Attribution(BaseModel):
    """What ``trainer attribute`` found; ``--json`` prints it."""

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
    how: TemplateMethod,
    alpha: float = 0.05,
    seed: int = 0,
    *,
    calibrate_degraded: bool | None = None,
    mapped: Mapping[str, str] | None = None,
) -> Attribution:
    """Name or reject every image by the nearest template, as a bundle of this checkpoint does.

    Args:
        checkpoint: the network.
        images: a sub-folder a family; one that is named for a label, or mapped to one, is known.
        templates: images to take the templates from: the training folder.
        calibration: other images of the same labels, which say how far a label's own lie; those of others say nothing.
        how: what a label's template is.
        alpha: share of known images that may be rejected.
        seed: of the choice where that is one image.
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
    numbers = _labels_of_folders(images, names, mapped or {})
    library = templates_of(checkpoint, templates, lambda images: embed(model, images)[1], how, seed)
    degraded = calibrates_on_degraded(checkpoint, calibrate_degraded)
    seen = [embed(model, calibration)[1]]
    if degraded:
        seen += [embed(model, copies)[1] for copies in degraded_copies(calibration)]
    own = np.tile(_numbers_of(calibration.classes, names)[calibration.labels], 1 + degraded)
    held_out = np.concatenate(seen)
    library = library.with_calibration({name: held_out[own == i] for i, name in enumerate(names)})
    logits, embeddings = embed(model, images)
    judged = Calibration.of_library(library).judge(library.distances(embeddings))
    truth = numbers[images.labels]
    known, right, unknown = truth >= 0, judged.nearest == truth, judged.p_value <= alpha
    folders = {}
    for number, name in enumerate(images.classes):
        label = names[numbers[number]] if numbers[number] >= 0 else None
        these = images.labels == number
        counts = np.bincount(judged.nearest[these & ~unknown], minlength=len(names)).tolist()
        against = None
        if label is None and known.any():
            against = auroc(judged.score[known | these], known[known | these])
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
    return Attribution(alpha=alpha, template=how, calibrated_on_degraded=degraded, folders=folders, overall=overall)


def _labels_of_folders(images: ImageFolder, names: Sequence[str], mapped: Mapping[str, str]) -> Numbers:
    """Of each sub-folder, the index of its label or -1: ``int64[C]``."""
    if missing := [folder for folder in mapped if folder not in images.classes]:
        raise UnknownClass(f"--map: {images.root} has no folder {missing[0]!r}, only {', '.join(images.classes)}")
    if strange := [label for label in mapped.values() if label not in names]:
        raise UnknownClass(f"--map: the checkpoint has no class {strange[0]!r}, only {', '.join(names)}")
    return _numbers_of([mapped.get(folder, folder) for folder in images.classes], names)


def _numbers_of(classes: Sequence[str], names: Sequence[str]) -> Numbers:
    return np.array([names.index(name) if name in names else -1 for name in classes], np.int64)


def _share(hits: Flags, of: Flags) -> Proportion:
    return proportion(int((hits & of).sum()), int(of.sum()))


def show(attribution: Attribution, console: Console) -> None:
    """As a table for people."""
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

"""What a checkpoint says of any folder: which family made an image, or that none it knows did."""

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from trainer.checkpoint import Checkpoint
from trainer.data import ImageFolder
from trainer.errors import DataMissing
from trainer.evaluate import How, embed, templates_of
from trainer.metrics import Proportion, auroc, proportion
from trainer.open_set import Calibration


class Verdicts(BaseModel):
    """On the images of one sub-folder."""

    model_config = ConfigDict(frozen=True)

    images: int
    generated: Proportion
    """Log-odds above 0."""
    unknown: Proportion
    """Explained by no label at alpha."""
    named: dict[str, int]
    """The others, by their nearest label."""
    right: Proportion | None
    """Nearest to the label that the sub-folder is named for, unknown or not; None where there is none."""
    auroc: float | None
    """Of the images of known labels against these, by how known they look; None where these are known, or none is."""


class Judgement(BaseModel):
    """What ``trainer judge`` found; ``--json`` prints it."""

    model_config = ConfigDict(frozen=True)

    alpha: float
    template: How
    folders: dict[str, Verdicts]


def judge(
    checkpoint: Checkpoint,
    images: ImageFolder,
    templates: ImageFolder,
    calibration: ImageFolder,
    how: How,
    alpha: float = 0.05,
    seed: int = 0,
) -> Judgement:
    """Name or reject every image by the nearest template, as a bundle does.

    Args:
        checkpoint: the network.
        images: a sub-folder a family; one that is named for a label is known.
        templates: images to take the templates from: the training folder.
        calibration: other images of the same labels, which say how far a label's own lie; those of others say nothing.
        how: what a label's template is.
        alpha: share of known images that may be rejected.
        seed: of the choice where that is one image.

    Raises:
        BadConfig: the system has no templates of its own.
        DataMissing: a label without an image to make a template of, or to calibrate on.
        UnknownClass: the templates' folder has a class that is no label.
    """
    model = checkpoint.model()
    names = [label.name for label in checkpoint.labels]
    for folder, use in ((templates, "make templates of"), (calibration, "calibrate on")):
        if missing := sorted({*names} - {*folder.classes}):
            raise DataMissing(f"{folder.root}: no images of {', '.join(missing)} to {use}")
    library = templates_of(checkpoint, templates, lambda images: embed(model, images)[1], how, seed)
    own = np.array([names.index(name) if name in names else -1 for name in calibration.classes])
    conformal = Calibration.of(library.distances(embed(model, calibration)[1]), own[calibration.labels])
    logits, embeddings = embed(model, images)
    judged = conformal.judge(library.distances(embeddings))
    known = np.isin(images.labels, [n for n, name in enumerate(images.classes) if name in library.labels])
    folders = {}
    for number, name in enumerate(images.classes):
        own = images.labels == number
        nearest, accepted = judged.nearest[own], judged.p_value[own] > alpha
        counts = np.bincount(nearest[accepted], minlength=len(library.labels)).tolist()
        right = int((nearest == library.labels.index(name)).sum()) if name in library.labels else None
        against = None
        if right is None and known.any():
            against = auroc(judged.score[known | own], known[known | own])
        folders[name] = Verdicts(
            images=len(nearest),
            generated=proportion(int((logits[own] > 0).sum()), len(nearest)),
            unknown=proportion(int((~accepted).sum()), len(nearest)),
            named={label: count for label, count in zip(library.labels, counts, strict=True) if count},
            right=None if right is None else proportion(right, len(nearest)),
            auroc=against,
        )
    return Judgement(alpha=alpha, template=how, folders=folders)


def show(judgement: Judgement, console: Console) -> None:
    """As a table for people."""
    title = f"Nearest template ({judgement.template}), unknown at alpha {judgement.alpha:g}; shares with 95 % intervals"
    table = Table("folder", "images", "generated", "right", "unknown", "AUROC known : this", "named", title=title)
    for name, found in judgement.folders.items():
        named = ", ".join(f"{label} {count}" for label, count in sorted(found.named.items(), key=lambda n: -n[1]))
        table.add_row(
            name,
            str(found.images),
            _share(found.generated),
            "-" if found.right is None else _share(found.right),
            _share(found.unknown),
            "-" if found.auroc is None else f"{found.auroc:.3f}",
            named or "-",
        )
    console.print(table)


def _share(found: Proportion) -> str:
    return f"{found.rate:.3f} [{found.low:.3f}, {found.high:.3f}]"

"""AP after blur and after JPEG at test time, for each training augmentation (S3, Fig. 5).

The metadata floor only stands beside images as stored: blurred or coded in memory, they are in no file.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.data.transforms import Transform
from trainer.evaluation.metrics import average_precision
from trainer.experiments.changes import blurred, coded
from trainer.experiments.floors import StudyFloor, floors_of
from trainer.experiments.plots import panels
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, Trained
from trainer.protocols.generalisation import Trial, tested, trained_on


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Trial]
    train_on: str
    sigmas: tuple[float, ...]
    """Standard deviations of the blur, in pixels."""
    qualities: tuple[int, ...]
    """Qualities of JPEG, in the order of the diagram."""


def run(study: Study) -> Findings:
    """Tables ``blur`` and ``jpeg``, means over generators; a diagram for each generator."""
    settings: Settings = study.settings(Settings)
    sweeps = {
        "blur": [(sigma, blurred(sigma)) for sigma in settings.sigmas],
        "jpeg": [(float(quality), coded(quality)) for quality in settings.qualities],
    }
    axes = {"blur": "blur, sigma", "jpeg": "JPEG quality"}
    nets = {row: trained_on(study, trial, settings.train_on)[0][0] for row, trial in settings.variants.items()}
    floors = floors_of(study, (study.generators[settings.train_on],))
    detectors: dict[str, Trained | StudyFloor] = {**nets, **{floor.row: floor for floor in floors}}
    tables, figures = [], []
    for kind, sweep in sweeps.items():
        means: dict[tuple[str, str], Measured] = {}
        groups: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in study.tested}
        for row, detector in detectors.items():
            for amount, change in sweep:
                if isinstance(detector, StudyFloor) and not detector.sees(change):
                    continue
                found = {name: 100 * _ap(study, detector, name, change) for name in study.tested}
                means[row, f"{amount:g}"] = Measured(value=float(np.mean(list(found.values()))))
                for name, value in found.items():
                    groups[name].setdefault(row, []).append((amount, value))
        tables.append(study.recipe.published(kind).beside(means))
        image = panels(groups, x=axes[kind], y="AP, %", limits=(35, 102))
        figures.append(Figure(title=f"Robustness to {kind} (S3, Fig. 5)", image=image))
    return Findings(tables=tuple(tables), figures=tuple(figures))


def _ap(study: Study, detector: Trained | StudyFloor, name: str, change: Transform) -> float:
    images = tested(study, name)
    generated = np.array([image.generated for image in images])
    outputs = (
        detector.predict(images, change)
        if isinstance(detector, StudyFloor)
        else study.outputs(detector, images, change)
    )
    return average_precision(outputs.logits, generated)

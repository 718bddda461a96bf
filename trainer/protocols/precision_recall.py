"""Precision and recall on each generator (S3, Fig. 8)."""

import numpy as np

from trainer.experiments.floors import binary_floors
from trainer.experiments.measures import percent_of
from trainer.experiments.plots import precision_recall
from trainer.experiments.section import Figure
from trainer.experiments.study import Findings, Study
from trainer.protocols.generalisation import OneNetwork, average_precisions, tested, trained_on


def run(study: Study) -> Findings:
    """Table ``ap`` and the curves, of the first backbone."""
    settings: OneNetwork = study.settings(OneNetwork)
    nets, _ = trained_on(study, settings.variant, settings.train_on)
    scores = {}
    for name in study.tested:
        images = tested(study, name)
        generated = np.array([image.generated for image in images])
        scores[name] = study.outputs(nets[0], images).logits, generated
    found = {("AP", name): percent_of(estimate) for name, estimate in average_precisions(study, nets).items()}
    trained = (study.generators[settings.train_on],)
    for name, generator in study.tested.items():
        found |= {(row, name): value for row, value in binary_floors(study, trained, (generator,), "AP").items()}
    figure = Figure(title="Precision and recall (S3, Fig. 8)", image=precision_recall(scores))
    return Findings(tables=(study.recipe.published("ap").beside(found),), figures=(figure,))

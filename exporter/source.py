"""What is exported, whoever made it: a network as it is served, its labels, and what there is to know of its making."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from bundle.manifest import Label, Preprocessing
from bundle.templates import TemplateLibrary
from trainer.arrays import Floats
from trainer.evaluation.evaluate import calibrates_on_degraded
from trainer.evaluation.templates import default_template_method, own_templates
from trainer.training.checkpoint import Checkpoint
from trainer.training.systems import system


@dataclass(frozen=True, eq=False)
class ExportSource:
    """All that an export needs to know of a trained network.

    Attributes:
        name: short name of the system; the graph is called so, and the bundle ``genprint-NAME`` unless told otherwise.
        network: ``uint8[N, H, W, 3]`` -> (logit ``float32[N]``, embedding ``float32[N, D]``), on the CPU, in
            evaluation mode; the logit is the log-odds of *generated*.
        labels: of the training images, in the order of their ids.
        preprocessing: what makes views of encoded images.
        l2_normalised: whether embeddings have length 1.
        calibrate_degraded: whether calibration sees degraded copies too, unless told otherwise.
        own_templates: gives the templates that training made, one for each label, followed by those of new classes:
            name -> embeddings ``float32[n, D]``. None where training made none.
        training: for the manifest and the model card: ``network`` and ``source`` (a line each), ``images`` (of each
            label), and whatever else is known of the training.
        versions: of the libraries that the weights were made with.
    """

    name: str
    network: nn.Module
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    l2_normalised: bool
    calibrate_degraded: bool
    own_templates: Callable[[Mapping[str, Floats]], TemplateLibrary] | None
    training: Mapping[str, Any]
    versions: Mapping[str, str]


def from_checkpoint(checkpoint: Checkpoint) -> ExportSource:
    """A network that ``genprint trainer`` made."""
    config, origin = checkpoint.config, checkpoint.origin
    kind = system(config.system)
    has_templates = default_template_method(checkpoint) == "own"
    return ExportSource(
        name=config.system,
        network=checkpoint.model(),
        labels=checkpoint.labels,
        preprocessing=config.preprocessing,
        l2_normalised=config.l2_normalised,
        calibrate_degraded=calibrates_on_degraded(checkpoint),
        own_templates=partial(own_templates, checkpoint) if has_templates else None,
        training={
            "config": config.model_dump(mode="json"),
            "network": kind.summary(config),
            "source": kind.source,
            "seed": checkpoint.seed,
            "data_fingerprint": checkpoint.fingerprint,
            "images": origin.images,
            "epochs": len(checkpoint.history),
        },
        versions=origin.versions,
    )

"""What a bundle reaches on a split: reported in manifest and model card, and used for nothing else."""

from bundle.manifest import Evaluation
from bundle.templates import TemplateLibrary
from exporter.contents.splits import EmbeddedSplit
from trainer.evaluation.metrics import binary, closed_set


def evaluation(split: EmbeddedSplit, library: TemplateLibrary) -> Evaluation:
    """Top-1 by the nearest template, and how well the logit ranks generated images above real ones."""
    nearest = library.distances(split.outputs.embedding).argmin(axis=1)
    closed = closed_set(split.label_ids, nearest, library.labels)
    decision = binary(split.outputs.logit, split.generated)
    return Evaluation(
        images=len(split.folder),
        data_fingerprint=split.folder.fingerprint,
        top1_by_template=closed.top1,
        recall=closed.recall,
        auroc=decision.auroc if decision else None,
        average_precision=decision.average_precision if decision else None,
    )

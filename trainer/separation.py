"""Whether metadata alone tell the classes of a data set apart, and which of them do."""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from trainer.metadata import MetadataTable

FOLDS = 5
PERMUTATIONS = 999
MOST_A_CLASS = 2000
"""Images that are looked at; more would only make the p-value smaller."""

Numbers = npt.NDArray[np.int64]


class GroupSkill(BaseModel):
    """What one group of metadata tells alone."""

    model_config = ConfigDict(frozen=True)

    name: str
    balanced_accuracy: float


class Separation(BaseModel):
    """How well a classifier that sees no pixel names the class, on images that it has not been shown."""

    model_config = ConfigDict(frozen=True)

    images: int
    classes: tuple[str, ...]
    """Those with enough images."""
    balanced_accuracy: float
    """Mean of the classes' recalls."""
    chance: float
    """What guessing gives."""
    p_value: float
    """How often labels dealt out at random agree as well with the predictions."""
    auroc: float
    """Mean over classes, one against the rest."""
    auroc_real: float | None
    """Photographs against all else, where both are there."""
    groups: tuple[GroupSkill, ...]
    """The best first."""

    @property
    def skill(self) -> float:
        """0 for guessing, 1 for always right."""
        return (self.balanced_accuracy - self.chance) / (1 - self.chance)

    @property
    def alarming(self) -> bool:
        """More than chance would do, by a margin that a detector could live on."""
        return self.p_value <= 0.01 and self.skill > 0.05


def separate(
    table: MetadataTable, labels: Numbers, names: tuple[str, ...], real: frozenset[str], seed: int = 0
) -> Separation | None:
    """Cross-validate a random forest on metadata, all and each group alone.

    The null hypothesis of ``p_value`` is that predictions, each made by a forest that was trained on the other folds,
    say nothing of the labels.

    Args:
        table: of N images.
        labels: ``int64[N]``, index into ``names``.
        names: of the classes.
        real: those that hold photographs.
        seed: of the sample, folds and trees.

    Returns:
        None where fewer than two classes have ``FOLDS`` images.
    """
    rng = np.random.default_rng(seed)
    large = [number for number in range(len(names)) if (labels == number).sum() >= FOLDS]
    if len(large) < 2:
        return None
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == number))[:MOST_A_CLASS] for number in large])
    values, truth = table.values[chosen], np.searchsorted(large, labels[chosen])
    probabilities = _predict(values, truth, 100, seed)
    predicted = probabilities.argmax(axis=1)
    is_real = np.isin([names[number] for number in large], list(real))
    return Separation(
        images=len(chosen),
        classes=tuple(names[number] for number in large),
        balanced_accuracy=float(balanced_accuracy_score(truth, predicted)),
        chance=1 / len(large),
        p_value=_p_value(truth, predicted, rng),
        auroc=_auroc(truth, probabilities),
        auroc_real=(
            float(roc_auc_score(is_real[truth], probabilities[:, is_real].sum(axis=1)))
            if is_real.any() and not is_real.all()
            else None
        ),
        groups=tuple(
            sorted(
                (
                    GroupSkill(name=name, balanced_accuracy=_alone(table.of(name)[chosen], truth, seed))
                    for name in table.names
                ),
                key=lambda group: -group.balanced_accuracy,
            )
        ),
    )


def metadata_forest(seed: int, trees: int = 200) -> RandomForestClassifier:
    """Trees, because file sizes tell classes apart by intervals and not by a line."""
    return RandomForestClassifier(trees, min_samples_leaf=5, class_weight="balanced", random_state=seed)


def _alone(values: npt.NDArray[np.float32], truth: Numbers, seed: int) -> float:
    if (values == values[0]).all():  # alike for all images: nothing to go by
        return 1 / len(np.unique(truth))
    return float(balanced_accuracy_score(truth, _predict(values, truth, 30, seed).argmax(axis=1)))


def _predict(values: npt.NDArray[np.float32], truth: Numbers, trees: int, seed: int) -> npt.NDArray[np.float64]:
    """Of each image by a forest that was not trained on it: ``float64[N, classes]``."""
    forest = metadata_forest(seed, trees)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return np.asarray(cross_val_predict(forest, values, truth, cv=folds, method="predict_proba"), np.float64)


def _p_value(truth: Numbers, predicted: Numbers, rng: np.random.Generator) -> float:
    counts = np.bincount(truth)

    def agreement(labels: Numbers) -> float:
        return float((np.bincount(labels[labels == predicted], minlength=len(counts)) / counts).sum())

    observed = agreement(truth) - 1e-9
    as_good = sum(agreement(rng.permutation(truth)) >= observed for _ in range(PERMUTATIONS))
    return (1 + as_good) / (1 + PERMUTATIONS)


def _auroc(truth: Numbers, probabilities: npt.NDArray[np.float64]) -> float:
    classes = range(probabilities.shape[1])
    return float(np.mean([roc_auc_score(truth == number, probabilities[:, number]) for number in classes]))

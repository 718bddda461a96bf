"""Whether metadata alone tell the classes of a data set apart, and which of them do."""

from math import factorial, prod
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from trainer.arrays import Floats64, Numbers
from trainer.inspection.metadata import MetadataTable

LEAST_A_CLASS = 5
PERMUTATIONS = 999
MOST_A_CLASS = 2000
"""Images that are looked at; more would only make p-values smaller."""
_SIGNIFICANT: Final = 0.01
_TREES: Final = 100
_TREES_A_GROUP: Final = 30

Features = npt.NDArray[np.float32]


class ClassifierScore(BaseModel):
    """What all metadata, or one group of them alone, tell."""

    model_config = ConfigDict(frozen=True)

    name: str
    balanced_accuracy: float
    """Mean of the recalls."""
    p_value: float
    """How often labels dealt out at random make the best of all tests on the data set as good."""
    alarming: bool
    """More than chance would do, by a margin that a detector could live on."""


class Separability(BaseModel):
    """How well classifiers that see no pixel answer one question, on images that they have not been shown."""

    model_config = ConfigDict(frozen=True)

    chance: float
    """Balanced accuracy of guessing."""
    auroc: float
    """With all metadata; mean over the answers, one against the rest."""
    everything: ClassifierScore
    groups: tuple[ClassifierScore, ...]
    """Each alone, the best first."""

    @property
    def alarming(self) -> bool:
        """By all metadata or by any group."""
        return any(skill.alarming for skill in (self.everything, *self.groups))

    @property
    def culprit(self) -> ClassifierScore:
        """The best group, of those that alarm where there are any."""
        return next((group for group in self.groups if group.alarming), self.groups[0])


class Separation(BaseModel):
    """What metadata tell of a data set's classes."""

    model_config = ConfigDict(frozen=True)

    images: int
    """Half of them to train on, half to judge."""
    classes: tuple[str, ...]
    """Those with enough images."""
    enough: bool
    """Whether classes that metadata name without fail would alarm."""
    by_class: Separability
    """Which class an image is of."""
    real: Separability | None
    """Photographs against all else, where both are there; of two classes, the same as ``by_class``."""

    @property
    def questions(self) -> dict[str, Separability]:
        """What metadata tell -> how well; each question once."""
        both = {"the classes apart": self.by_class}
        return both if self.real in (None, self.by_class) else both | {"real from generated": self.real}

    @property
    def alarming(self) -> bool:
        """Either question is answered."""
        return any(told.alarming for told in self.questions.values())


def separate(
    table: MetadataTable, labels: Numbers, names: tuple[str, ...], real: frozenset[str], seed: int = 0
) -> Separation | None:
    """Train random forests on metadata of half of the images, all and each group alone, and judge the other half.

    The null hypothesis is that what a forest says of the other half tells nothing of its labels. P-values are of all
    tests together, by the greatest standardised balanced accuracy under permuted labels (Westfall and Young 1993, max
    T), so that many tests do not alarm more often than one. Folds would use all images, but not allow this test: who
    trains on a neighbour, and the neighbour on him, are right or wrong together.

    Args:
        table: of N images.
        labels: ``int64[N]``, index into ``names``.
        names: of the classes.
        real: those that hold photographs.
        seed: of the sample, halves, trees and permutations.

    Returns:
        None where fewer than two classes have ``LEAST_A_CLASS`` images.
    """
    rng = np.random.default_rng(seed)
    large = [number for number in range(len(names)) if (labels == number).sum() >= LEAST_A_CLASS]
    if len(large) < 2:
        return None
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == number))[:MOST_A_CLASS] for number in large])
    truth = np.searchsorted(large, labels[chosen])
    classes = tuple(names[number] for number in large)
    is_real = np.isin(classes, list(real)).astype(np.int64)
    answers = [np.arange(len(classes))]  # of each class, for each question
    if len(set(is_real)) == 2 and len(classes) > 2:
        answers.append(is_real)

    inputs = [table.values[chosen], *(table.of(name)[chosen] for name in table.names)]
    train, test = train_test_split(np.arange(len(truth)), test_size=0.5, stratify=truth, random_state=seed)
    told = [
        [
            _predict(values[train], answer[truth[train]], values[test], _TREES_A_GROUP if number else _TREES, seed)
            for number, values in enumerate(inputs)
        ]
        for answer in answers
    ]
    truth = truth[test]
    predicted = [np.stack([probabilities.argmax(axis=1) for probabilities in each]) for each in told]
    accuracies = _balanced_accuracies(truth, answers, predicted)
    p_values = _p_values(truth, answers, predicted, rng)
    by_class, *others = (
        _told(table.names, _auroc(answer[truth], each[0]), 1 / (answer.max() + 1), accuracies[row], p_values[row])
        for row, (answer, each) in enumerate(zip(answers, told, strict=True))
    )
    return Separation(
        images=len(chosen),
        classes=classes,
        enough=_least_p_value(truth) <= _SIGNIFICANT,
        by_class=by_class,
        real=others[0] if others else by_class if len(set(is_real)) == 2 else None,
    )


def metadata_forest(seed: int, trees: int = 200, leaf: int = 5) -> RandomForestClassifier:
    """Trees, because file sizes tell classes apart by intervals and not by a line.

    Args:
        seed: of the forest.
        trees: their number.
        leaf: images in each leaf at least.
    """
    return RandomForestClassifier(trees, min_samples_leaf=leaf, class_weight="balanced", random_state=seed)


def _told(
    names: tuple[str, ...], auroc: float, chance: float, accuracies: Floats64, p_values: Floats64
) -> Separability:
    everything, *groups = (
        ClassifierScore(
            name=name,
            balanced_accuracy=accuracy,
            p_value=p_value,
            alarming=bool(p_value <= _SIGNIFICANT and (accuracy - chance) / (1 - chance) > 0.05),
        )
        for name, accuracy, p_value in zip(("all", *names), accuracies, p_values, strict=True)
    )
    ranked = sorted(groups, key=lambda group: -group.balanced_accuracy)
    return Separability(chance=chance, auroc=auroc, everything=everything, groups=tuple(ranked))


def _predict(known: Features, truth: Numbers, asked: Features, trees: int, seed: int) -> Floats64:
    """``float64[N, answers]`` of the asked by a forest that was trained on the known."""
    if (known == known[0]).all():  # alike for all images: nothing to go by
        return np.full((len(asked), truth.max() + 1), 1 / (truth.max() + 1))
    leaf = min(5, max(1, int(np.bincount(truth).min()) // 2))  # so that small classes can have leaves of their own
    return np.asarray(metadata_forest(seed, trees, leaf).fit(known, truth).predict_proba(asked), np.float64)


def _balanced_accuracies(truth: Numbers, answers: list[Numbers], predicted: list[Numbers]) -> Floats64:
    """``float64[questions, tests]``, of ``int64[tests, N]`` for each question."""
    rows = []
    for answer, given in zip(answers, predicted, strict=True):
        right = answer[truth]
        counts = np.bincount(right)
        rows.append((given == right) @ (1 / counts[right]) / len(counts))
    return np.array(rows)


def _p_values(truth: Numbers, answers: list[Numbers], predicted: list[Numbers], rng: np.random.Generator) -> Floats64:
    """``float64[questions, tests]``."""
    dealt = [truth, *(rng.permutation(truth) for _ in range(PERMUTATIONS))]
    accuracies = np.array([_balanced_accuracies(labels, answers, predicted) for labels in dealt])
    spread = accuracies.std(axis=0)
    # Where all images are given one answer, nothing but rounding varies.
    standard = np.where(spread > 1e-9, (accuracies - accuracies.mean(axis=0)) / np.maximum(spread, 1e-9), 0)
    best = standard.max(axis=(1, 2))
    return np.asarray((best[:, None, None] >= standard[0] - 1e-9).mean(axis=0), np.float64)


def _least_p_value(truth: Numbers) -> float:
    """One of all the ways to deal out the labels."""
    return prod(factorial(count) for count in np.bincount(truth).tolist()) / factorial(len(truth))


def _auroc(truth: Numbers, probabilities: Floats64) -> float:
    answers = range(probabilities.shape[1])
    return float(np.mean([roc_auc_score(truth == number, probabilities[:, number]) for number in answers]))

"""Tests whether metadata alone tell the classes of a data set apart, and which metadata do."""

from math import factorial, prod
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from trainer.arrays import Features, Floats64, Numbers
from trainer.inspection.metadata import MetadataTable

LEAST_A_CLASS = 5
PERMUTATIONS = 999
MOST_A_CLASS = 2000
"""At most this many images of each class are used; more would only make p-values smaller."""
_SIGNIFICANT: Final = 0.01
_TREES: Final = 100
_TREES_A_GROUP: Final = 30


class ClassifierScore(BaseModel):
    """How well a classifier does on all metadata, or on one group of them."""

    model_config = ConfigDict(frozen=True)

    name: str
    balanced_accuracy: float
    """The mean of the classes' recalls."""
    p_value: float
    """How often the best of all tests is as good after a random permutation of the labels."""
    alarming: bool
    """Whether it is significantly and markedly better than chance."""


class Separability(BaseModel):
    """How well classifiers that see no pixel answer one question, on images that they were not trained on."""

    model_config = ConfigDict(frozen=True)

    chance: float
    """Balanced accuracy of guessing."""
    auroc: float
    """AUROC with all metadata: the mean over classes, each against the rest."""
    everything: ClassifierScore
    groups: tuple[ClassifierScore, ...]
    """Each group of metadata alone, the best first."""

    @property
    def alarming(self) -> bool:
        """Whether all metadata, or any group, are alarming."""
        return any(score.alarming for score in (self.everything, *self.groups))

    @property
    def culprit(self) -> ClassifierScore:
        """The best of the alarming groups, or of all groups if none is alarming."""
        return next((group for group in self.groups if group.alarming), self.groups[0])


class Separation(BaseModel):
    """What metadata tell about a data set's classes."""

    model_config = ConfigDict(frozen=True)

    images: int
    """The number of images used: half to train on, half to test."""
    classes: tuple[str, ...]
    """The classes with enough images."""
    enough: bool
    """Whether there are enough images for an alarm if metadata told all classes apart without error."""
    by_class: Separability
    """How well metadata tell the classes apart."""
    real: Separability | None
    """How well they tell photographs from all others, if there are both; equal to ``by_class`` with two classes."""

    @property
    def questions(self) -> dict[str, Separability]:
        """Question -> how well metadata answer it, each question once."""
        both = {"the classes apart": self.by_class}
        return both if self.real in (None, self.by_class) else both | {"real from generated": self.real}

    @property
    def alarming(self) -> bool:
        """Whether any question is alarming."""
        return any(answer.alarming for answer in self.questions.values())


def separate(
    table: MetadataTable, labels: Numbers, names: tuple[str, ...], real: frozenset[str], seed: int = 0
) -> Separation | None:
    """Train random forests on the metadata of half of the images, all and each group alone, and test on the other half.

    The null hypothesis is that a forest's predictions for the other half are independent of its labels. P-values are
    corrected for all tests together, by the greatest standardised balanced accuracy under permuted labels (Westfall and
    Young 1993, max T), so that many tests do not alarm more often than one. Cross-validation would use all images, but
    its folds depend on each other, which this test does not allow.

    Args:
        table: metadata of N images.
        labels: ``int64[N]``, indices into ``names``.
        names: the names of the classes.
        real: the classes of photographs.
        seed: seeds the sample, halves, trees and permutations.

    Returns:
        None if fewer than two classes have ``LEAST_A_CLASS`` images.
    """
    rng = np.random.default_rng(seed)
    large = [number for number in range(len(names)) if (labels == number).sum() >= LEAST_A_CLASS]
    if len(large) < 2:
        return None
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == number))[:MOST_A_CLASS] for number in large])
    true_ids = np.searchsorted(large, labels[chosen])
    classes = tuple(names[number] for number in large)
    is_real = np.isin(classes, list(real)).astype(np.int64)
    answers = [np.arange(len(classes))]  # the answer for each class, to each question
    if len(set(is_real)) == 2 and len(classes) > 2:
        answers.append(is_real)

    inputs = [table.values[chosen], *(table.of(name)[chosen] for name in table.names)]
    train, test = train_test_split(np.arange(len(true_ids)), test_size=0.5, stratify=true_ids, random_state=seed)
    outputs = [
        [
            _predict(values[train], answer[true_ids[train]], values[test], _TREES_A_GROUP if number else _TREES, seed)
            for number, values in enumerate(inputs)
        ]
        for answer in answers
    ]
    true_ids = true_ids[test]
    predicted = [np.stack([probabilities.argmax(axis=1) for probabilities in each]) for each in outputs]
    accuracies = _balanced_accuracies(true_ids, answers, predicted)
    p_values = _p_values(true_ids, answers, predicted, rng)
    by_class, *others = (
        _separability(
            table.names, _auroc(answer[true_ids], each[0]), 1 / (answer.max() + 1), accuracies[row], p_values[row]
        )
        for row, (answer, each) in enumerate(zip(answers, outputs, strict=True))
    )
    return Separation(
        images=len(chosen),
        classes=classes,
        enough=_least_p_value(true_ids) <= _SIGNIFICANT,
        by_class=by_class,
        real=others[0] if others else by_class if len(set(is_real)) == 2 else None,
    )


def metadata_forest(seed: int, trees: int = 200, leaf: int = 5) -> RandomForestClassifier:
    """A random forest: file sizes tell classes apart by intervals, which a linear classifier would miss.

    Args:
        seed: the seed of the forest.
        trees: the number of trees.
        leaf: the fewest images in a leaf.
    """
    return RandomForestClassifier(trees, min_samples_leaf=leaf, class_weight="balanced", random_state=seed)


def _separability(
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


def _predict(known: Features, true_ids: Numbers, unknown: Features, trees: int, seed: int) -> Floats64:
    """Probabilities ``float64[N, answers]`` for unknown images, by a forest that is trained on the known."""
    if (known == known[0]).all():  # equal for all images
        return np.full((len(unknown), true_ids.max() + 1), 1 / (true_ids.max() + 1))
    leaf = min(5, max(1, int(np.bincount(true_ids).min()) // 2))  # small classes can have leaves of their own
    return np.asarray(metadata_forest(seed, trees, leaf).fit(known, true_ids).predict_proba(unknown), np.float64)


def _balanced_accuracies(true_ids: Numbers, answers: list[Numbers], predicted: list[Numbers]) -> Floats64:
    """``float64[questions, tests]``, from predictions ``int64[tests, N]`` for each question."""
    rows = []
    for answer, given in zip(answers, predicted, strict=True):
        right = answer[true_ids]
        counts = np.bincount(right)
        rows.append((given == right) @ (1 / counts[right]) / len(counts))
    return np.array(rows)


def _p_values(
    true_ids: Numbers, answers: list[Numbers], predicted: list[Numbers], rng: np.random.Generator
) -> Floats64:
    """P-values of all tests: ``float64[questions, tests]``."""
    dealt = [true_ids, *(rng.permutation(true_ids) for _ in range(PERMUTATIONS))]
    accuracies = np.array([_balanced_accuracies(labels, answers, predicted) for labels in dealt])
    spread = accuracies.std(axis=0)
    # If all images get one answer, only rounding varies.
    standard = np.where(spread > 1e-9, (accuracies - accuracies.mean(axis=0)) / np.maximum(spread, 1e-9), 0)
    best = standard.max(axis=(1, 2))
    return np.asarray((best[:, None, None] >= standard[0] - 1e-9).mean(axis=0), np.float64)


def _least_p_value(true_ids: Numbers) -> float:
    """The smallest possible p-value: one of all permutations of the labels."""
    return prod(factorial(count) for count in np.bincount(true_ids).tolist()) / factorial(len(true_ids))


def _auroc(true_ids: Numbers, probabilities: Floats64) -> float:
    answers = range(probabilities.shape[1])
    return float(np.mean([roc_auc_score(true_ids == number, probabilities[:, number]) for number in answers]))

"""Scikit-learn's figures against hand-made cases and plain loops."""

import numpy as np
import pytest

from trainer.metrics import binary, closed_set


def test_binary_figures_of_a_hand_made_ranking() -> None:
    logits = np.array([-2.0, -1.0, 0.5, 1.0, 3.0], np.float32)
    generated = np.array([False, True, False, True, True])
    found = binary(logits, generated)

    pairs = [(fake > real) for fake in logits[generated] for real in logits[~generated]]
    precisions = [1 / 1, 2 / 2, 3 / 4]  # walking down the ranking, at each generated image
    assert found is not None
    assert (found.real, found.generated) == (2, 3)
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert found.average_precision == pytest.approx(np.mean(precisions))
    assert found.accuracy_at_zero == pytest.approx(3 / 5)


@pytest.mark.parametrize("generated", [[True, True], [False, False]])
def test_one_kind_alone_has_no_ranking(generated: list[bool]) -> None:
    assert binary(np.zeros(2, np.float32), np.array(generated)) is None


def test_confusion_rows_are_the_truth() -> None:
    found = closed_set(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2]), ("a", "b", "c", "absent"))
    assert found.confusion == ((1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 2, 0), (0, 0, 0, 0))
    assert found.top1 == pytest.approx(4 / 6)
    assert found.recall == {"a": 0.5, "b": 1.0, "c": pytest.approx(2 / 3)}

"""A network that knows two of three textures learns the third."""

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from bundle.manifest import Label
from tests.bundles import CLASSES, one_thread, train_checkpoint
from trainer.data.folder import ImageFolder, label_ids
from trainer.errors import BadConfig, DataMissing, OutputUnwritable, UnknownClass
from trainer.evaluation.templates import make_templates
from trainer.models.few_shot import Drawn, FewShotConfig, add_classes, batches, draw, few_shot, fit_scores
from trainer.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.training.embedding import embed
from trainer.training.losses import TripletLoss

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
CONFIG = FewShotConfig(shots=4, replay=12, epochs=4, batch=32, lr=3e-4)


@pytest.fixture(scope="module")
def known(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Knows ``doubled`` and ``real``."""
    root = tmp_path_factory.mktemp("known")
    (root / "train").mkdir()
    for name in ("doubled", "real"):
        (root / "train" / name).symlink_to(tiny_data / "train" / name)
    return train_checkpoint(root, root / "a.pt")


@pytest.fixture(scope="module")
def folder(known: Checkpoint, tiny_data: Path) -> ImageFolder:
    return ImageFolder.read(tiny_data / "train", known.config.preprocessing)


@pytest.fixture(scope="module")
def taught(known: Checkpoint, folder: ImageFolder) -> Checkpoint:
    with one_thread():
        return add_classes(known, folder, [], CONFIG, QUIET)


def recall(checkpoint: Checkpoint, folder: ImageFolder, drawn: Drawn, test: ImageFolder) -> dict[str, float]:
    """Recall of each class by the nearest mean template of the images drawn."""
    names = tuple(label.name for label in checkpoint.labels)
    used = np.concatenate([drawn.new, drawn.replayed])
    _, embeddings = embed(checkpoint.model(), folder.pixels(used))
    library = make_templates(embeddings, label_ids(folder, checkpoint.labels)[used], names, "mean", 0)
    _, embeddings = embed(checkpoint.model(), test.pixels(slice(None)))
    nearest = library.distances(embeddings).argmin(axis=1)
    true_ids = label_ids(test, checkpoint.labels)
    return {name: float((nearest[true_ids == i] == i).mean()) for i, name in enumerate(names)}


def test_a_new_class_is_learnt_and_the_known_ones_are_kept(
    known: Checkpoint, taught: Checkpoint, folder: ImageFolder, tiny_data: Path
) -> None:
    assert taught.labels == (*known.labels, Label(id=2, name="striped", kind="generator"))
    [addition] = taught.origin.additions
    assert (addition.images, addition.replayed) == ({"striped": 4}, 24)
    assert addition.losses[-1] < addition.losses[0]
    assert taught.origin.images == {"doubled": 24, "real": 24, "striped": 4}
    assert taught.config.l2_normalised
    test = ImageFolder.read(tiny_data / "test", known.config.preprocessing)
    found = recall(taught, folder, draw(folder, ["striped"], CONFIG), test)
    assert min(found.values()) >= 0.75


def test_the_logit_and_the_scores_know_the_new_class(taught: Checkpoint, tiny_data: Path) -> None:
    test = ImageFolder.read(tiny_data / "test", taught.config.preprocessing)
    generated = np.array([name != "real" for name in test.classes])[test.labels]
    logits, _ = embed(taught.model(), test.pixels(slice(None)))
    assert ((logits > 0) == generated).mean() > 0.9


def test_the_whole_network_is_tuned_and_its_filters_are_not(known: Checkpoint, taught: Checkpoint) -> None:
    same = {name for name in known.weights if torch.equal(known.weights[name], taught.weights[name])}
    assert same == {"srm.kernels"}
    steps = taught.weights["resnet.bn1.num_batches_tracked"] - known.weights["resnet.bn1.num_batches_tracked"]
    assert steps == 4  # epochs of one batch each: 24 known images and 4 new ones


@pytest.mark.parametrize("triplets", ["all", "new"])
def test_either_set_of_triplets_can_be_had(
    known: Checkpoint, folder: ImageFolder, monkeypatch: pytest.MonkeyPatch, triplets: Literal["all", "new"]
) -> None:
    taken = []
    forward = TripletLoss.forward

    def watched(self: TripletLoss, embeddings: Tensor, labels: Tensor, new: Tensor | None = None) -> Tensor:
        taken.append(new)
        return forward(self, embeddings, labels, new)

    monkeypatch.setattr(TripletLoss, "forward", watched)
    config = CONFIG.model_copy(update={"triplets": triplets, "epochs": 1})
    with one_thread():
        add_classes(known, folder, [], config, QUIET)
    [new] = taken
    assert (new is None) if triplets == "all" else (new is not None and new.tolist() == [True] * 4 + [False] * 24)


def test_the_seed_decides(known: Checkpoint, folder: ImageFolder, taught: Checkpoint) -> None:
    with one_thread():
        again = add_classes(known, folder, ["striped"], CONFIG, QUIET)
    assert all(torch.equal(again.weights[name], taught.weights[name]) for name in taught.weights)


def test_without_epochs_no_embedding_changes(known: Checkpoint, folder: ImageFolder) -> None:
    extended = add_classes(known, folder, [], CONFIG.model_copy(update={"epochs": 0}), QUIET)
    assert [label.name for label in extended.labels] == ["doubled", "real", "striped"]
    assert not extended.config.l2_normalised
    pixels = folder.pixels(slice(0, 5))
    np.testing.assert_array_equal(embed(extended.model(), pixels)[1], embed(known.model(), pixels)[1])


def test_classes_that_were_added_stay_new_where_they_are_named(taught: Checkpoint, folder: ImageFolder) -> None:
    with one_thread():
        again = add_classes(taught, folder, ["striped"], CONFIG.model_copy(update={"epochs": 1}), QUIET)
    assert again.labels == taught.labels
    assert [addition.images for addition in again.origin.additions] == [{"striped": 4}] * 2


def test_a_checkpoint_is_written_and_comes_back(known: Checkpoint, tiny_data: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 0})
    few_shot(known, tiny_data / "train", tmp_path / "b.pt", [], config, QUIET)
    loaded = load_checkpoint(tmp_path / "b.pt")
    assert loaded.origin.additions[0].settings == config.model_dump()
    save_checkpoint(tmp_path / "c.pt", loaded)


def test_an_output_that_cannot_be_written_stops_before_training(known: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="it is a folder; pass the name of a file"):
        few_shot(known, tmp_path / "nowhere", tmp_path, [], CONFIG, QUIET)


class TestDraw:
    def test_shots_of_new_classes_and_replay_of_known_ones(self, folder: ImageFolder) -> None:
        drawn = draw(folder, ["striped"], CONFIG)
        assert [CLASSES[label] for label in folder.labels[drawn.new]] == ["striped"] * 4
        assert Counter(CLASSES[label] for label in folder.labels[drawn.replayed]) == {"doubled": 12, "real": 12}
        assert len(set(drawn.new)) == 4

    def test_another_class_changes_no_draw(self, folder: ImageFolder) -> None:
        one, other = draw(folder, ["striped"], CONFIG), draw(folder, ["doubled", "striped"], CONFIG)
        assert set(one.new) < set(other.new)

    def test_more_shots_hold_the_fewer(self, folder: ImageFolder) -> None:
        more = draw(folder, ["striped"], CONFIG.model_copy(update={"shots": 9}))
        assert set(draw(folder, ["striped"], CONFIG).new) < set(more.new)

    def test_all_where_there_are_fewer_or_none_are_told(self, folder: ImageFolder) -> None:
        drawn = draw(folder, ["striped"], FewShotConfig(replay=1000))
        assert len(drawn.new) + len(drawn.replayed) == len(folder)


def test_every_known_image_comes_once_an_epoch_and_the_new_ones_in_each_batch() -> None:
    torch.manual_seed(0)
    new = torch.tensor([True] * 3 + [False] * 20)
    found = [batch.tolist() for batch in batches(new, 10)]
    assert [len(batch) for batch in found] == [10, 10, 9]
    assert all({0, 1, 2} <= set(batch) for batch in found)
    assert sorted(i for batch in found for i in batch if i > 2) == list(range(3, 23))


def test_new_images_fill_half_a_batch_at_most() -> None:
    torch.manual_seed(0)
    new = torch.tensor([True] * 20 + [False] * 8)
    found = [batch.tolist() for batch in batches(new, 8)]
    assert [sum(i < 20 for i in batch) for batch in found] == [4, 4]
    assert found[0][:4] != found[1][:4]


@pytest.mark.parametrize(("kinds", "binary"), [("rg", False), ("rgg", False), ("rg", True), ("rggr", True)])
def test_scores_tell_the_classes_that_they_were_fitted_on(kinds: str, *, binary: bool) -> None:
    rng = np.random.default_rng(0)
    labels = [Label(id=i, name=str(i), kind="real" if kind == "r" else "generator") for i, kind in enumerate(kinds)]
    true_ids = np.arange(60) % len(labels)
    kind = np.array([label.kind == "generator" for label in labels])[true_ids]
    embeddings = (10 + 3 * rng.normal(size=(60, 4)) + 40 * np.eye(4)[true_ids] + 40 * kind[:, None]).astype(np.float32)
    head = fit_scores(embeddings, true_ids, labels, binary=binary)
    with torch.no_grad():
        scores = head(torch.from_numpy(embeddings)).numpy()
    if binary:
        assert scores.shape == (60, 1)
        assert ((scores[:, 0] > 0) == kind).all()
    else:
        assert scores.shape == (60, len(labels))
        assert (scores.argmax(axis=1) == true_ids).all()


@pytest.mark.parametrize(
    ("new", "error", "message"),
    [
        (["other"], UnknownClass, "no class 'other', only doubled, real, striped"),
        (["doubled"], UnknownClass, "'striped' is neither known nor named as new; name it with --new"),
    ],
)
def test_what_cannot_be_learnt_is_named(
    known: Checkpoint, folder: ImageFolder, new: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        add_classes(known, folder, new, CONFIG, QUIET)


def test_nothing_new_and_nothing_old(known: Checkpoint, taught: Checkpoint, folder: ImageFolder) -> None:
    with pytest.raises(DataMissing, match="all classes are known to the checkpoint; name those to learn with --new"):
        add_classes(taught, folder, [], CONFIG, QUIET)
    config = known.config.model_copy(update={"system": "s2"})
    other = Checkpoint(config, known.labels, known.origin, (), {}, {})
    with pytest.raises(BadConfig, match="needs a checkpoint of s1, this is one of s2"):
        add_classes(other, folder, [], CONFIG, QUIET)

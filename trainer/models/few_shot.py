"""A checkpoint learns new classes of images from a few of each: S1's triplet fine-tuning (section III-C, eq. 2 and 3).

Choices that the paper leaves open: triplets follow FaceNet (see ``losses.TripletLoss``), so that embeddings
are compared at length 1 from then on. Each batch holds the new images (up to its half) and some of the known classes,
of which ``replay`` images each take part, so that an epoch sees all of those once. Batch norm goes on as in training:
with its statistics frozen, the paper's learning rate tears the known classes apart. The class scores, which the paper
drops for templates, are fitted anew on the same images by logistic regression, as a served model needs a logit.

With no epochs, a new class gets a label and may get a template, and no embedding changes: the library is extensible
without training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from bundle.manifest import Label
from trainer.arrays import Numbers
from trainer.choices import MAX_SEED
from trainer.data.augment import flip_half
from trainer.data.folder import ImageFolder
from trainer.data.output import check_new_file
from trainer.errors import BadConfig, DataMissing, UnknownClass
from trainer.models.srm_metric import SrmMetricNet
from trainer.training.checkpoint import Addition, Checkpoint, save_checkpoint
from trainer.training.device import World, choose_device
from trainer.training.embedding import embed
from trainer.training.losses import TripletLoss
from trainer.training.report import progress_of, report_skipped, show_progress
from trainer.training.schedules import scale


class FewShotConfig(BaseModel):
    """Settings of a fine-tuning; epochs, batch, rate and its fall are those of the training, as in the paper."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shots: int | None = Field(default=None, ge=1)
    """Images of each new class, drawn by ``seed``; None takes all."""
    replay: int = Field(default=100, ge=2)
    """Images of each known class, drawn by ``seed``, or all where there are fewer. The paper does not say how many."""
    epochs: int = Field(default=10, ge=0)
    """0 changes no embedding."""
    batch: int = Field(default=128, ge=4)
    lr: float = Field(default=1e-3, gt=0)
    lr_decay: float = Field(default=0.8, gt=0, lt=1)
    triplets: Literal["all", "new"] = "all"
    """``all`` of a batch, as eq. 3 has it, or those whose anchor or negative is of a ``new`` type, as the words before
    it may be read: then nothing holds the known classes apart from each other."""
    margin: float = Field(default=0.2, gt=0)
    """Margin on squared distances of embeddings of length 1 (FaceNet)."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of a fine-tuning.

    Attributes:
        new: ``int64[N]``, images of new classes: indices into the folder.
        replayed: ``int64[M]``, images of known classes.
    """

    new: Numbers
    replayed: Numbers


def few_shot(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    new: Sequence[str],
    config: FewShotConfig,
    console: Console,
) -> Checkpoint:
    """Fine-tune on the folder ``data`` and write the checkpoint ``out``; arguments otherwise as for ``add_classes``.

    Raises:
        OutputUnwritable: ``out`` cannot be written; checked before anything else is done.
        TrainerError: see ``add_classes`` and ``ImageFolder.read``.
    """
    check_new_file(out, force=True)
    training = checkpoint.config
    folder = ImageFolder.read(data, training.preprocessing, max_unreadable=training.max_unreadable)
    report_skipped(folder, console)
    added = add_classes(checkpoint, folder, new, config, console)
    save_checkpoint(out, added)
    return added


def add_classes(
    checkpoint: Checkpoint, folder: ImageFolder, new: Sequence[str], config: FewShotConfig, console: Console
) -> Checkpoint:
    """Make a checkpoint that knows more classes.

    Args:
        checkpoint: of S1; it stays as it is.
        folder: images of the known classes to replay, and of the new ones.
        new: classes of the folder to learn; empty: those that the checkpoint does not know. One that it knows may be
            named: classes that were added before are still new (Table V keeps their images in each step).
        config: settings of the fine-tuning.
        console: receives the progress.

    Raises:
        BadConfig: the checkpoint is of another system.
        UnknownClass: a class of the folder is neither known nor named as new; or one that is named is not there.
        DataMissing: nothing is new, or there are no images of a known class.
    """
    if checkpoint.config.system != "s1":
        raise BadConfig(f"few-shot: needs a checkpoint of s1, this is one of {checkpoint.config.system}")
    new = new_classes(checkpoint, folder, new)
    labels = _extended(checkpoint, new)
    drawn = draw(folder, new, config)
    used = np.concatenate([drawn.new, drawn.replayed])
    if absent := {label.name for label in labels} - set(folder.classes):
        raise DataMissing(f"{folder.root}: no images of {', '.join(sorted(absent))}, which the checkpoint knows")
    id_of = {label.name: label.id for label in labels}
    true_ids = np.array([id_of[folder.classes[index]] for index in folder.labels[used]], np.int64)
    pixels = folder.pixels(used)
    is_new = np.arange(len(used)) < len(drawn.new)

    device = choose_device()
    with show_progress(console, World(0, 1, device)) as bars:
        torch.manual_seed(config.seed)
        net = checkpoint.network().to(device)
        assert isinstance(net, SrmMetricNet)
        images = torch.from_numpy(pixels).to(device)
        with progress_of(bars, f"fine-tuning on {', '.join(new)}") as advance:
            losses = []
            epochs = _fine_tune(net, images, true_ids, is_new, config, flip=checkpoint.config.flip)
            for epoch, loss in enumerate(epochs):
                losses.append(loss)
                advance(epoch + 1, config.epochs)
        _, embeddings = embed(net, pixels)
        net.head = fit_scores(embeddings, true_ids, labels, binary=checkpoint.config.binary)
        weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}

    addition = Addition(
        images={name: int((folder.labels[drawn.new] == folder.classes.index(name)).sum()) for name in new},
        replayed=len(drawn.replayed),
        fingerprint=folder.fingerprint,
        settings=config.model_dump(mode="json"),
        losses=tuple(losses),
    )
    origin = checkpoint.origin
    images_a_label = {**origin.images, **addition.images}
    return replace(
        checkpoint,
        config=checkpoint.config.model_copy(
            update={"l2_normalised": checkpoint.config.l2_normalised or config.epochs > 0}
        ),
        labels=labels,
        origin=origin.model_copy(update={"images": images_a_label, "additions": (*origin.additions, addition)}),
        weights=weights,
        objective={},
    )


def draw(folder: ImageFolder, new: Sequence[str], config: FewShotConfig) -> Drawn:
    """Draw the images that take part; each class has a random generator of its own, whichever others there are."""
    chosen: dict[bool, list[Numbers]] = {True: [], False: []}
    for label, name in enumerate(folder.classes):
        own = np.flatnonzero(folder.labels == label)
        count = config.shots if name in new else config.replay
        rng = np.random.default_rng([config.seed, *name.encode()])
        chosen[name in new].append(np.sort(rng.permutation(own)[:count]))
    return Drawn(np.concatenate(chosen[True]), np.concatenate([np.empty(0, np.int64), *chosen[False]]))


def new_classes(checkpoint: Checkpoint, folder: ImageFolder, named: Sequence[str]) -> tuple[str, ...]:
    """Classes of the folder to learn, sorted; see ``add_classes``."""
    known = {label.name for label in checkpoint.labels}
    new = tuple(name for name in folder.classes if name in named) if named else tuple(set(folder.classes) - known)
    if missing := set(named) - set(folder.classes):
        raise UnknownClass(f"{folder.root}: no class {min(missing)!r}, only {', '.join(folder.classes)}")
    if unknown := set(folder.classes) - known - set(new):
        raise UnknownClass(f"{folder.root}: {min(unknown)!r} is neither known nor named as new; name it with --new")
    if not new:
        raise DataMissing(f"{folder.root}: all classes are known to the checkpoint; name those to learn with --new")
    return tuple(sorted(new))


def _extended(checkpoint: Checkpoint, new: Sequence[str]) -> tuple[Label, ...]:
    labels = list(checkpoint.labels)
    for name in new:
        if name not in {label.name for label in labels}:
            labels.append(
                Label(id=len(labels), name=name, kind="real" if name in checkpoint.config.real else "generator")
            )
    return tuple(labels)


def _fine_tune(
    net: SrmMetricNet, images: Tensor, true_ids: Numbers, is_new: np.ndarray, config: FewShotConfig, *, flip: bool
) -> Iterator[float]:
    """Fine-tune ``net``, and yield the mean loss of each epoch when it ends."""
    net.train()
    device = images.device
    label_ids, new = torch.from_numpy(true_ids).to(device), torch.from_numpy(is_new).to(device)
    loss_of = TripletLoss(config.margin)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    for _ in range(config.epochs):
        total = torch.zeros((), device=device)
        drawn = list(batches(new.cpu(), config.batch))
        for chosen in drawn:
            batch = flip_half(images[chosen]) if flip else images[chosen]
            _, embeddings = net(batch)
            loss = loss_of(embeddings, label_ids[chosen], new[chosen] if config.triplets == "new" else None)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            total += loss.detach()
        scale(optimiser, config.lr_decay)
        yield float(total) / len(drawn)
    net.eval()


def batches(new: Tensor, batch: int) -> Iterator[Tensor]:
    """Batches of indices of an epoch: every known image once, and in each all new ones, or half a batch of them."""
    fresh, known = new.nonzero()[:, 0], (~new).nonzero()[:, 0]
    few = min(len(fresh), batch // 2)
    for part in torch.split(known[torch.randperm(len(known))], batch - few):
        yield torch.cat([fresh[torch.randperm(len(fresh))[:few]], part])


def fit_scores(embeddings: np.ndarray, true_ids: Numbers, labels: Sequence[Label], *, binary: bool) -> nn.Linear:
    """Linear layer of scores by logistic regression, with classes of equal weight, on standardised embeddings."""
    generated = np.array([label.kind == "generator" for label in labels])[true_ids]
    target = generated.astype(np.int64) if binary else true_ids
    centre, spread = embeddings.mean(axis=0), embeddings.std() + 1e-6
    fit = LogisticRegression(class_weight="balanced", max_iter=1000).fit((embeddings - centre) / spread, target)
    weight = fit.coef_ / spread
    bias = fit.intercept_ - weight @ centre
    if not binary and len(labels) == 2:  # scikit-learn gives the difference of the two scores alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = nn.Linear(weight.shape[1], len(bias))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head

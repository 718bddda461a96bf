"""Training, top to bottom: read this first.

One process a device. ``torchrun`` starts several; they share every step (DistributedDataParallel), and only the first
prints and writes.
"""

from pathlib import Path
from time import monotonic
from typing import cast

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from bundle.manifest import Label
from trainer.checkpoint import Checkpoint, Epoch, Origin, installed_versions, now, save_checkpoint
from trainer.config import TrainConfig
from trainer.data import ImageFolder, label_numbers, make_labels
from trainer.device import Precision, World, choose_precision, join_processes
from trainer.evaluate import class_scores
from trainer.losses import CentreLoss
from trainer.metrics import Numbers
from trainer.models.srm_metric import SrmMetricNet
from trainer.report import describe, describe_epoch, read_folder, show_progress


def train(config: TrainConfig, data: Path, out: Path, val: Path | None, console: Console) -> Checkpoint:
    """Train on the folder ``data`` and write the checkpoint ``out``.

    The same config, data, machine and number of processes give the same numbers.

    Args:
        config: the run.
        data: one sub-folder a class.
        out: the checkpoint's file.
        val: other images of the same classes; their accuracy is reported after each epoch and decides nothing.
        console: where progress goes.
    """
    with join_processes(config) as world, show_progress(console, world) as progress:
        folder = read_folder(config, data, progress)
        labels = make_labels(folder, config.real)
        val_folder = read_folder(config, val, progress) if val is not None else None
        val_truth = label_numbers(val_folder, labels) if val_folder is not None else None
        precision = choose_precision(world.device)
        progress.console.print(describe(config, folder, world, precision), soft_wrap=True)

        torch.manual_seed(config.seed)
        trained = Trained(config, labels, world, precision)
        loader, sampler = make_loader(config, folder, world)
        history: list[Epoch] = []
        for number in range(config.epochs):
            sampler.set_epoch(number)
            epoch = trained.run_epoch(number, loader, progress)
            if val_folder is not None and val_truth is not None:
                epoch = epoch.model_copy(update={"val_accuracy": trained.accuracy(val_folder, val_truth)})
            history.append(epoch)
            progress.console.print(describe_epoch(epoch, config.epochs), soft_wrap=True)

        checkpoint = Checkpoint(
            config=config,
            labels=labels,
            origin=Origin(
                fingerprint=folder.fingerprint,
                images=dict(zip(folder.classes, folder.counts(), strict=True)),
                precision=precision.name,
                device=world.device.type,
                processes=world.size,
                versions=installed_versions(),
                created_at=now(),
            ),
            history=tuple(history),
            weights={name: tensor.cpu() for name, tensor in trained.net.state_dict().items()},
            centres=trained.centre.centres.cpu(),
        )
        if world.first:
            save_checkpoint(out, checkpoint)
        return checkpoint


class Trained:
    """The state of a run: network, centres, optimiser."""

    def __init__(self, config: TrainConfig, labels: tuple[Label, ...], world: World, precision: Precision) -> None:
        self.config, self.world, self.precision = config, world, precision
        self.net = SrmMetricNet(config, len(labels)).to(world.device).to(memory_format=torch.channels_last)
        self.centre = CentreLoss(len(labels), config.embedding, config.centre_rate).to(world.device)
        self.generated = torch.tensor([label.kind == "generator" for label in labels], device=world.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=config.lr)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimiser, config.lr_decay)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision.scaled)
        # Batch norm keeps statistics of each process's own share: synchronised ones exist on CUDA only.
        self.parallel: nn.Module = DistributedDataParallel(self.net) if world.size > 1 else self.net

    def run_epoch(self, number: int, loader: DataLoader[tuple[Tensor, int]], progress: Progress) -> Epoch:
        """Every image once, then the rate falls."""
        self.parallel.train()
        rate = float(self.optimiser.param_groups[0]["lr"])
        task = progress.add_task(f"epoch {number + 1}/{self.config.epochs}", total=len(loader), speed="", loss="")
        sums, started = torch.zeros(5, dtype=torch.float64), monotonic()
        for step, (images, labels) in enumerate(loader, start=1):
            sums += self.step(images.to(self.world.device), labels.to(self.world.device))
            images_per_s = float(sums[4]) * self.world.size / (monotonic() - started)
            loss = float(sums[0] / sums[4])
            progress.update(task, completed=step, speed=f"{images_per_s:.0f} images/s", loss=f"loss {loss:.3f}")
        progress.remove_task(task)
        self.schedule.step()
        if self.world.size > 1:
            sums = sums.to(self.world.device)
            dist.all_reduce(sums)
        loss, cross_entropy, centre, accuracy = (sums[:4] / sums[4]).tolist()
        return Epoch(
            number=number + 1,
            lr=rate,
            loss=loss,
            cross_entropy=cross_entropy,
            centre=centre,
            accuracy=accuracy,
            images_per_s=float(sums[4]) / (monotonic() - started),
        )

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on ``uint8[N, H, W, 3]``, ``int64[N]``.

        Returns:
            ``float64[5]``: sums of loss, cross-entropy, centre loss and hits over the batch, and N.
        """
        if self.config.flip:
            mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
            images = torch.where(mirrored.to(images.device), images.flip(2), images)
        with torch.autocast(images.device.type, dtype=self.precision.dtype, enabled=self.precision.dtype is not None):
            scores, embeddings = self.parallel(images)
        cross_entropy, hits = self.classify(scores.float(), labels)
        centre = self.centre(embeddings, labels)
        loss = cross_entropy + self.config.centre_weight * centre
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.centre.update(embeddings.detach(), labels)
        means = torch.stack([loss.detach(), cross_entropy.detach(), centre.detach(), hits.float().mean()])
        return torch.cat([means.double().cpu(), torch.ones(1, dtype=torch.float64)]) * len(images)

    def accuracy(self, folder: ImageFolder, truth: Numbers) -> float:
        """Share of other images that are right, by the measure of ``classify``."""
        scores = torch.from_numpy(class_scores(self.net, folder)).to(self.world.device)
        _, hits = self.classify(scores, torch.from_numpy(truth).to(self.world.device))
        return float(hits.float().mean())

    def classify(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy, and which images are right: over classes, or over *generated* in the binary variant."""
        if not self.config.binary:
            return nn.functional.cross_entropy(scores, labels), scores.argmax(1) == labels
        generated = self.generated[labels]
        loss = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], generated.float())
        return loss, (scores[:, 0] > 0) == generated


def make_loader(
    config: TrainConfig, folder: ImageFolder, world: World
) -> tuple[DataLoader[tuple[Tensor, int]], DistributedSampler[tuple[Tensor, int]]]:
    """This process's share of every batch, in an order that depends on seed and epoch alone.

    The last, incomplete batch of an epoch is dropped (batch norm suffers from a small one), unless it is the only one.
    """
    images = cast("Dataset[tuple[Tensor, int]]", folder)  # has __getitem__ and __len__, which is all that is asked
    sampler: DistributedSampler[tuple[Tensor, int]] = DistributedSampler(
        images, world.size, world.rank, seed=config.seed
    )
    batch = config.batch // world.size
    loader = DataLoader(
        images,
        batch_size=batch,
        sampler=sampler,
        drop_last=len(sampler) >= batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=world.device.type == "cuda",
    )
    return loader, sampler

"""Training from top to bottom: read this first.

One process a device. ``torchrun`` starts several; they share every step (DistributedDataParallel), and only the first
prints and writes. All that is particular to a system comes from ``systems.system``.
"""

from pathlib import Path
from time import monotonic

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.arrays import Numbers
from trainer.data.augment import flip_half
from trainer.data.enlarged import Enlarged
from trainer.data.folder import ImageFolder, label_ids, make_labels
from trainer.data.output import check_new_file
from trainer.errors import BadConfig
from trainer.training.batches import Batches
from trainer.training.checkpoint import Checkpoint, Epoch, Origin, save_checkpoint
from trainer.training.config import TrainConfig
from trainer.training.device import Precision, World, choose_precision, join_processes
from trainer.training.embedding import class_scores
from trainer.training.report import NO_FIGURES, describe, describe_epoch, progress_of, read_folder, show_progress
from trainer.training.systems import Losses, Objective, make_network, system
from trainer.versions import installed_versions, now

_REFRESH_S = 0.25
"""Seconds between reads of a run's sums, as each read waits for the device."""


def train(config: TrainConfig, data: Path, out: Path, val: Path | None, console: Console) -> Checkpoint:
    """Train on the folder ``data`` and write the checkpoint ``out``.

    The same config, data, machine and number of processes give the same numbers.

    Args:
        config: settings of the run and of its system.
        data: a data set in any layout; one sub-folder a class, for example.
        out: the checkpoint's file.
        val: watched images, others of the same classes. Accuracy on them is reported after each epoch; it steers the
            run only where the config says so (``keep``, S3's schedule).
        console: receives the progress.

    Raises:
        BadConfig: ``config.needs_val``, and there is no ``val``.
        OutputUnwritable: ``out`` cannot be written; checked before anything else is done.
        DataError: the images cannot be used.
    """
    if config.needs_val and val is None:
        raise BadConfig(f"val: {config.system} is steered by its accuracy on other images; give them with --val")
    with join_processes(config) as world, show_progress(console, world) as progress:
        if world.first:
            check_new_file(out, force=True)
        folder = read_folder(config, config.training_preprocessing, data, config.split, progress)
        labels = make_labels(folder, config.real)
        watched = None
        if val is not None:
            others = read_folder(config, config.preprocessing, val, config.val_split, progress)
            watched = others, label_ids(others, labels)
        precision = choose_precision(world.device)
        progress.console.print(describe(config, folder, world, precision), soft_wrap=True)

        torch.manual_seed(config.seed)
        kind = system(config.system)
        net = make_network(config, labels)
        kind.start(config, net)
        net = net.to(world.device).to(memory_format=torch.channels_last)
        objective = kind.objective(config, labels).to(world.device)
        history: tuple[Epoch, ...] = ()
        if config.epochs > 0:
            images: ImageFolder | Enlarged = folder
            if kind.enlarge is not None:
                with progress_of(progress, "enlarging") as advance:
                    images = kind.enlarge(config, folder, advance)
            history = Run(config, net, objective, images, world, precision).train(watched, progress)
        if kind.fit is not None:
            with progress_of(progress, "fitting") as advance:
                kind.fit(config, net.eval(), folder, advance)

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
            history=history,
            weights=_on_cpu(net),
            objective=_on_cpu(objective),
        )
        if world.first:
            save_checkpoint(out, checkpoint)
        return checkpoint


class _Step(nn.Module):
    """Network and objective as one module, so that processes share the gradients of both."""

    def __init__(self, net: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, images: Tensor, labels: Tensor) -> Losses:
        losses: Losses = self.objective(self.net, images, labels)
        return losses


class Run:
    """The state of a run by gradients: network, objective, optimiser, learning rate."""

    def __init__(
        self,
        config: TrainConfig,
        net: nn.Module,
        objective: Objective,
        images: ImageFolder | Enlarged,
        world: World,
        precision: Precision,
    ) -> None:
        kind = system(config.system)
        self.config, self.net, self.objective, self.world, self.precision = config, net, objective, world, precision
        self.batches = Batches(config, images, kind.augment_image(config), world)
        self.augment_batch = kind.augment_batch(config)
        step = _Step(net, objective)
        self.optimiser = kind.optimiser(config, step)
        self.schedule = kind.schedule(config, self.optimiser, len(self.batches))
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision.scaled)
        # Batch norm keeps statistics of each process's own share: synchronised ones exist on CUDA only.
        self.parallel: nn.Module = DistributedDataParallel(step) if world.size > 1 else step

    def train(self, watched: tuple[ImageFolder, Numbers] | None, progress: Progress) -> tuple[Epoch, ...]:
        """Train all epochs; network and objective end with the weights that ``config.keep`` asks for.

        Args:
            watched: images and their label ids ``int64[N]``.
            progress: receives bars and lines.
        """
        history: list[Epoch] = []
        best, kept = float("-inf"), None
        for number in range(self.config.epochs):
            epoch = self.epoch(number, progress)
            if watched is not None:
                accuracy = self.accuracy(*watched)
                epoch = epoch.model_copy(update={"val_accuracy": accuracy})
                if self.config.keep == "best" and accuracy > best:
                    best, kept = accuracy, (_on_cpu(self.net), _on_cpu(self.objective))
            history.append(epoch)
            progress.console.print(describe_epoch(epoch, self.config.epochs), soft_wrap=True)
            if not self.schedule.after_epoch(epoch.val_accuracy):
                break
        if kept is not None:
            self.net.load_state_dict(kept[0])
            self.objective.load_state_dict(kept[1])
        return tuple(history)

    def epoch(self, number: int, progress: Progress) -> Epoch:
        """Train on every image once."""
        self.parallel.train()
        self.objective.done = number / self.config.epochs
        rate = float(self.optimiser.param_groups[0]["lr"])
        task = progress.add_task(f"epoch {number + 1}/{self.config.epochs}", total=len(self.batches), **NO_FIGURES)
        sums, names = torch.zeros((), dtype=torch.float64, device=self.world.device), list[str]()
        started = shown = monotonic()
        for done, (images, labels) in enumerate(self.batches.epoch(number), start=1):
            losses, right = self.step(images, labels)
            names = list(losses.parts)
            means = [losses.total, *losses.parts.values(), right.float().mean(), torch.ones_like(losses.total)]
            sums = sums + torch.stack(means).detach().double() * len(labels)
            if (time := monotonic()) - shown > _REFRESH_S:
                shown = time
                speed = float(sums[-1]) * self.world.size / (time - started)
                loss = float(sums[0] / sums[-1])
                progress.update(task, completed=done, speed=f"{speed:.0f} images/s", loss=f"loss {loss:.3f}")
        progress.remove_task(task)
        self._agree(sums)
        loss, *parts, accuracy, _ = (sums / sums[-1]).tolist()
        return Epoch(
            number=number + 1,
            lr=rate,
            loss=loss,
            parts=dict(zip(names, parts, strict=True)),
            accuracy=accuracy,
            images_per_s=float(sums[-1]) / (monotonic() - started),
        )

    def step(self, images: Tensor, labels: Tensor) -> tuple[Losses, Tensor]:
        """Take one step on ``uint8[N, H, W, 3]``, ``int64[N]``; losses, and which images were right (``bool[N]``)."""
        device, precision = self.world.device, self.precision
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if self.config.flip:
            images = flip_half(images)
        if self.augment_batch is not None:
            images = self.augment_batch(images)
        with torch.autocast(device.type, dtype=precision.dtype, enabled=precision.dtype is not None):
            losses: Losses = self.parallel(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(losses.total))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.after_step()
        with torch.no_grad():
            self.objective.after_step(losses, labels)
            return losses, self.objective.right(losses.scores, labels)

    def accuracy(self, folder: ImageFolder, true_ids: Numbers) -> float:
        """Accuracy on watched images, without augmentation."""
        scores = torch.from_numpy(class_scores(self.net, folder)).to(self.world.device)
        return float(self.objective.right(scores, torch.from_numpy(true_ids).to(self.world.device)).float().mean())

    def _agree(self, sums: Tensor) -> None:
        """Add the sums of all processes, and give all the batch norm statistics of the first, lest networks differ."""
        if self.world.size > 1:
            dist.all_reduce(sums)
            for buffer in self.parallel.buffers():
                dist.broadcast(buffer, 0)


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """Copy of a module's state, which further training does not change."""
    return {name: tensor.detach().clone().cpu() for name, tensor in module.state_dict().items()}

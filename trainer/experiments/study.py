"""The means of an experiment: its corpus, its scale, networks trained once, and their outputs for images."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import Progress

from bundle.files import open_regular
from bundle.manifest import Preprocessing
from bundle.preprocess import DecodedImage, decode, make_views
from trainer.arrays import Floats, Images, Pixels
from trainer.choices import ScaleName
from trainer.data.entries import REAL, Extent
from trainer.data.transforms import CLEAN, Transform
from trainer.errors import BadConfig, NotInCorpus
from trainer.experiments.corpus import Corpus, CorpusImage
from trainer.experiments.recipe import Recipe, Scale, Variant, merged
from trainer.experiments.section import Figure, Measured, Table
from trainer.experiments.steps import Steps, key_of
from trainer.models.few_shot import FewShotConfig, few_shot
from trainer.training import loop
from trainer.training.checkpoint import Checkpoint, load_checkpoint
from trainer.training.config import TrainConfig
from trainer.training.embedding import embed
from trainer.training.systems import parse_config

Classes = Mapping[str, Sequence[CorpusImage]]
"""Label -> its images."""

PRETRAINED: Final = ("resnet18", "resnet34", "resnet50")
"""Networks of S3 and of Zhang et al. that can start from ImageNet's weights."""
_BATCH: Final = 256


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """A network's outputs for N images.

    Attributes:
        logits: ``float32[N]``, log-odds of *generated*.
        embeddings: ``float32[N, D]``, as they are served.
    """

    logits: Floats
    embeddings: Floats


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network on disk, loaded when it is needed."""

    key: str
    path: Path
    config: TrainConfig

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, read from disk."""
        return load_checkpoint(self.path)

    @cached_property
    def model(self) -> torch.nn.Module:
        """The network as it is served, on the GPU if there is one."""
        return self.checkpoint.model().to("cuda" if torch.cuda.is_available() else "cpu")


class Findings(BaseModel):
    """The results of a protocol."""

    model_config = ConfigDict(frozen=True)

    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()


class Study:
    """One experiment, on one corpus, at one scale.

    Attributes:
        mapping: the publication's generators -> the corpus's, None where nothing stands for one.
        generators: those of ``mapping`` that the corpus has, at most the scale's number; if the recipe names none, all
            that can be trained on.
        random: networks that started from random weights where the publication's started from ImageNet's.

    Raises:
        NotInCorpus: there are no generators.
    """

    def __init__(
        self,
        recipe: Recipe,
        scale: ScaleName,
        corpus: Corpus,
        mapping: Mapping[str, str | None],
        steps: Steps,
        work: Path,
        console: Console,
        pretrained: Mapping[str, Path] | None = None,
    ) -> None:
        self.recipe, self.corpus, self.mapping, self.steps, self.console = recipe, corpus, mapping, steps, console
        self.scale_name = scale
        self.scale: Scale = getattr(recipe, scale)
        self._work = work
        self._pretrained = pretrained or {}
        self.random: set[str] = set()
        named = {name: folder for name, folder in mapping.items() if folder is not None}
        every = named if recipe.names else {name: name for name in corpus.trainable}
        if not every:
            published = ", ".join(recipe.names)
            raise NotInCorpus(f"{corpus.root}: nothing stands for any of {published}; pass --map NAME=FOLDER")
        self.generators: dict[str, str] = dict(list(every.items())[: self.scale.generators])
        self._mirrored: set[Extent] = set()

    @cached_property
    def tested(self) -> dict[str, str]:
        """Those of ``generators`` that have test images: all, unless another data set is tested.

        Raises:
            NotInCorpus: none has.
        """
        found = {name: folder for name, folder in self.generators.items() if self.corpus.fakes(folder, "test")}
        if not found:
            raise NotInCorpus(f"{self._tests}: no test images of any of {', '.join(self.generators.values())}")
        return found

    @cached_property
    def kept(self) -> dict[str, str]:
        """Generators with test images but without training images."""
        others = set(self.corpus.generators) - set(self.corpus.trainable)
        return {name: name for name in sorted(others) if self.corpus.fakes(name, "test")}

    def test_classes(self, generators: Iterable[str], least: int = 1) -> dict[str, tuple[CorpusImage, ...]]:
        """Label -> test images, for photographs and those of these generators that have any.

        Raises:
            NotInCorpus: fewer than ``least`` classes have.
        """
        wanted = list(generators)
        found = self.corpus.classes(wanted, "test", self.scale.test)
        if len(found) < least:
            known = ", ".join((REAL, *wanted))
            raise NotInCorpus(f"{self._tests}: test images of {len(found)} of {known}, at least {least} needed")
        return found

    def training_classes(self, variant: Variant, generators: Iterable[str]) -> tuple[Classes, Classes]:
        """Training and validation images of photographs and these generators."""
        names = tuple(generators)
        train = self.corpus.classes(names, "train", self.least(variant))
        return train, self.corpus.classes(names, "val", self.scale.val)

    def calibration(self, generators: Iterable[str]) -> tuple[CorpusImage, ...]:
        """Calibration images of photographs and these generators."""
        classes = self.corpus.classes(generators, "calib", self.scale.calib)
        return tuple(image for some in classes.values() for image in some)

    def both_kinds(self, generators: Iterable[str]) -> tuple[CorpusImage, ...]:
        """Test images of these generators and photographs.

        Raises:
            NotInCorpus: one of the kinds is missing.
        """
        images = [p for some in self.test_classes(generators).values() for p in some]
        if len({image.generated for image in images}) < 2:
            kind = "photographs" if any(image.generated for image in images) else "generated images"
            raise NotInCorpus(f"{self._tests}: no {kind} to test on, and figures of real against generated need both")
        return tuple(images)

    @property
    def _tests(self) -> str:
        return self.corpus.tested_on or str(self.corpus.root)

    def remarks(self) -> Iterator[str]:
        """Remarks on the run, known once it is done."""
        if untested := [name for name, folder in self.generators.items() if not self.corpus.fakes(folder, "test")]:
            yield f"No test images of {', '.join(untested)}."
        if self.corpus.tested_on and not self.corpus.paired:
            yield "Not all classes have equally many test images: bounds resample files, not photographs."
        if self._mirrored:
            yield f"{len(self._mirrored)} images are smaller than the network's view and were mirrored at their border."
        if self.random:
            names = sorted(self.random)
            option = f"--pretrained {names[0]}=FILE"
            yield f"{', '.join(names)} from random weights, the publication's from ImageNet's: {option}"

    def seeds_of(self, variant: Variant) -> range:
        """The seeds of the variant's backbones: the scale's, at most as many as the variant allows."""
        return range(min(self.scale.seeds, variant.seeds or self.scale.seeds))

    def settings(self, model: type[BaseModel]) -> Any:
        """The protocol's settings: the recipe's, with the scale's over them.

        Raises:
            BadConfig: a key or value is not the protocol's.
        """
        try:
            return model.model_validate(merged(self.recipe.settings, self.scale.settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadConfig(f"{self.recipe.protocol}: settings.{where}: {first['msg']}") from error

    def config(self, variant: Variant, seed: int, **over: Any) -> TrainConfig:
        """The system's defaults, under the scale's settings, the variant's, and ``over``.

        Pretrained weights that were given for its network are set.
        """
        scale = {**self.scale.common, **self.scale.systems.get(variant.system, {})}
        values = {"system": variant.system, **scale, **variant.options, **over, "seed": seed}
        config = parse_config(values)
        network: str | None = getattr(config, "backbone", None)
        if network is None or "pretrained" not in type(config).model_fields:
            return config
        if network in self._pretrained:
            return parse_config({"pretrained": self._pretrained[network], **values})
        self.random.add(network)
        return config

    def train(self, config: TrainConfig, classes: Classes, val: Classes | None = None) -> Trained:
        """A network of that config trained on these images, now or by an earlier step.

        ``val`` is used only by systems whose training depends on it.
        """
        used = {"train": classes} | ({"val": val} if val is not None and config.needs_val else {})
        images_of = ", ".join(f"{len(images)} {name}" for name, images in classes.items())
        inputs = {
            "what": f"{config.system} on {images_of}, seed {config.seed}",
            "config": _config_of(config),
            "data": {split: [self.corpus.digest(p) for p in some.values()] for split, some in used.items()},
            "labels": list(classes),
        }

        def make(out: Path) -> None:
            folders = {split: self._folder(some) for split, some in used.items()}
            loop.train(config, folders["train"], out, folders.get("val"), self.console)

        return Trained(key_of(inputs), self.steps.file("train", inputs, "pt", make), config)

    def train_seeds(self, variant: Variant, train: Classes, val: Classes | None = None, **over: Any) -> list[Trained]:
        """Networks of the variant on the same images, one for each of its seeds; ``over`` as in ``config``."""
        return [self.train(self.config(variant, seed, **over), train, val) for seed in self.seeds_of(variant)]

    def fine_tune(self, trained: Trained, new: Classes, known: Classes, seed: int) -> Trained:
        """S1's triplet fine-tuning on all images of ``new`` and of ``known``; see ``trainer.models.few_shot``."""
        base = trained.config.model_dump()
        settings = FewShotConfig(
            replay=max(len(images) for images in known.values()),
            seed=seed,
            **{key: base[key] for key in ("epochs", "batch", "lr", "lr_decay")},
        )
        inputs = {
            "what": f"of {', '.join(f'{len(images)} {name}' for name, images in new.items())}",
            "checkpoint": trained.key,
            "data": [[name, self.corpus.digest(images)] for name, images in {**known, **new}.items()],
            "new": sorted(new),
            "settings": settings.model_dump(mode="json"),
        }

        def make(out: Path) -> None:
            few_shot(trained.checkpoint, self._folder({**known, **new}), out, sorted(new), settings, self.console)

        path = self.steps.file("fine-tune", inputs, "pt", make)
        return Trained(key_of(inputs), path, trained.config)

    def outputs(
        self,
        trained: Trained,
        images: Sequence[CorpusImage],
        change: Transform = CLEAN,
        preprocessing: Preprocessing | None = None,
    ) -> NetworkOutputs:
        """Logits and embeddings of images, computed or taken from an earlier step.

        There is a step for the images of each label, so that other selections of labels share them.
        """
        cut = preprocessing or trained.config.preprocessing
        if cut.views[0].resize.mode == "none":
            sides = self.corpus.sides
            self._mirrored |= {p.extent for p in images if sides.get(p.extent, cut.size) < cut.size}
        parts = [
            self._outputs(trained, tuple(run), change, cut) for _, run in groupby(images, key=lambda image: image.label)
        ]
        logits = np.concatenate([part.logits for part in parts])
        return NetworkOutputs(logits, np.concatenate([part.embeddings for part in parts]))

    def _outputs(
        self, trained: Trained, images: Sequence[CorpusImage], change: Transform, cut: Preprocessing
    ) -> NetworkOutputs:
        inputs = {
            "what": f"of {len(images)} images of {images[0].label}, {change.name}",
            "checkpoint": trained.key,
            "images": self.corpus.digest(images),
            "change": change.name,
            "preprocessing": cut.digest,
        }
        path = self.steps.file(
            "outputs", inputs, "npz", lambda out: self._save_outputs(trained, images, change, cut, out)
        )
        with np.load(path) as arrays:
            return NetworkOutputs(arrays["logits"], arrays["embeddings"])

    def draws_of(self, variant: Variant) -> range:
        """The variant's draws of few images: the scale's, at most as many as the variant allows."""
        return range(min(self.scale.draws, variant.draws or self.scale.draws))

    def least(self, variant: Variant) -> int | None:
        """Training images of each class: the smaller number of scale and variant; None for all."""
        given = [count for count in (self.scale.train, variant.train) if count is not None]
        return min(given, default=None)

    def _folder(self, classes: Classes) -> Path:
        digest = key_of({"sets": [[name, self.corpus.digest(images)] for name, images in classes.items()]})
        folder = self._work / "sets" / digest
        if folder.exists():
            return folder
        staging = folder.with_name(f".{digest}")
        shutil.rmtree(staging, ignore_errors=True)
        for name, images in classes.items():
            (staging / name).mkdir(parents=True)
            for number, image in enumerate(images):
                file = staging / name / f"{number:06}"
                if image.extent.length is None:
                    file.symlink_to(image.extent.file.resolve())
                else:  # part of a shard
                    file.write_bytes(image.extent.read())
        staging.replace(folder)
        return folder

    def _save_outputs(
        self, trained: Trained, images: Sequence[CorpusImage], change: Transform, cut: Preprocessing, out: Path
    ) -> None:
        logits, embeddings = [], []
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            task = bars.add_task("running the network", total=len(images))
            for views in load_views(images, cut, change):
                first, second = embed(trained.model, views)
                logits.append(first)
                embeddings.append(second)
                bars.advance(task, len(views))
        np.savez(out, logits=np.concatenate(logits), embeddings=np.concatenate(embeddings))


def _config_of(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON, with the digest of pretrained weights in place of their path."""
    values = config.model_dump(mode="json")
    if values.get("pretrained") is not None:
        with open_regular(values["pretrained"]) as file:
            values["pretrained"] = hashlib.file_digest(file, "sha256").hexdigest()
    return values


def load_views(images: Sequence[CorpusImage], cut: Preprocessing, change: Transform = CLEAN) -> Iterator[Images]:
    """Views of images as a network sees them, in batches ``uint8[n, size, size, 3]``.

    Images smaller than a crop are mirrored at their border: test sets are compared image by image, so none is left out.
    """
    padded = Preprocessing(views=(cut.views[0].model_copy(update={"on_small": "reflect"}),))

    def view(image: CorpusImage) -> Pixels:
        one: Pixels = make_views(changed(decode(image.extent.read()), change), padded)[0]
        return one

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), _BATCH):
            yield np.stack(list(pool.map(view, images[start : start + _BATCH])))


def changed(image: DecodedImage, change: Transform) -> DecodedImage:
    """The image after ``change``."""
    if change is CLEAN:
        return image
    pixels = change.apply(np.array(image.image))
    return DecodedImage(image.facts, Image.fromarray(np.ascontiguousarray(pixels)), image.orientation)


def percent(value: float, low: float | None = None, high: float | None = None) -> Measured:
    """A share in 0..1 as per cent."""
    return Measured(
        value=100 * value, low=None if low is None else 100 * low, high=None if high is None else 100 * high
    )

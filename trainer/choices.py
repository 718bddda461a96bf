"""What command-line options can be set to; importing this loads none of the libraries that do the work."""

from collections.abc import Mapping
from typing import Final, Literal

TemplateMethod = Literal["one", "mean", "own"]
"""A label's template: one random training image (S1's), the mean of all, or what training itself made (``System``)."""

ImageFormat = Literal["jpeg", "png", "webp"]
"""The format that ``reencode`` writes."""

Fit = Literal["crop", "resize"]
"""How an image comes to a given size: its centre as stored, or the whole image resized."""

SimulatorKind = Literal["autogan", "dip"]
"""What ``simulate`` makes fakes with: AutoGAN, or deep image priors."""

ScaleName = Literal["smoke", "mini", "full"]
"""How large an experiment is; see ``recipes/protocols/scales.toml``."""

MAX_SEED: Final = 2**31 - 1
"""Largest seed that every library takes, with room for those that are made from it."""

SYSTEMS: Final[Mapping[str, str]] = {
    "s1": "trainer.models.srm_metric",
    "s2": "trainer.models.dcgan_discriminator",
    "s3": "trainer.models.resnet_blur_jpeg",
    "prnu": "trainer.models.prnu",
    "spectrum": "trainer.models.spectrum",
    "cooccurrence": "trainer.models.cooccurrence",
    "forensic_transfer": "trainer.models.forensic_transfer",
    "backbone": "trainer.models.backbones",
    "block_spectra": "trainer.models.block_spectra",
    "contrastive": "trainer.models.contrastive",
}
"""Name -> module with its ``SYSTEM``, imported when it is used: some need large libraries."""

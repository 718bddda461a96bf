"""The average spectrum of each generator's images and of its reals, after a high-pass filter (S3, Fig. 7).

The filter is the image minus its median blur (3x3, as Marra et al.; S3 does not say how large). The spectrum is the
mean over images and channels of ``log(1 + |FFT|)``; S3 averages up to 2,000 random images of each set, we take as many
at even distances. The publication shows only images; we add the height of the strongest peak over its surroundings.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import median_filter

from bundle.manifest import Crop, Preprocessing, View
from trainer.arrays import Pixels
from trainer.experiments.corpus import CorpusImage, spread
from trainer.experiments.plots import image_grid, spectrum_image
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, load_views

Spectrum = npt.NDArray[np.float64]
"""``float64[S, S]``, zero frequency first."""


class Settings(BaseModel):
    """Crop, number of images, and neighbourhood of a peak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(default=256, ge=16)
    """Side of the central crop, in pixels."""
    images: int = Field(default=2000, ge=1)
    """At most this many images of each set."""
    neighbourhood: int = 9
    """Side of the square of frequencies that a peak is compared with."""


def run(study: Study) -> Findings:
    """Table ``peaks`` and the spectra."""
    settings: Settings = study.settings(Settings)
    found: dict[tuple[str, str], Measured] = {}
    shown: dict[str, list[Pixels]] = {"real": [], "generated": []}
    for name, generator in study.tested.items():
        tested = study.both_kinds([generator])
        for kind, spectra in shown.items():
            images = [image for image in tested if image.generated == (kind == "generated")]
            spectrum = mean_spectrum(_views(spread(images, settings.images), settings.side))
            spectra.append(spectrum_image(spectrum))
            found[name, kind] = Measured(value=highest_peak(spectrum, settings.neighbourhood))
    grid = image_grid(shown, list(study.tested), grey=True)
    figure = Figure(title="Average spectra (S3, Fig. 7)", image=grid, caption="Zero frequency in the middle.")
    return Findings(tables=(study.recipe.published("peaks").beside(found),), figures=(figure,))


def mean_spectrum(batches: Iterator[Pixels]) -> Spectrum:
    """The mean spectrum of all images in batches ``uint8[n, S, S, 3]``."""
    total, count = np.zeros(()), 0
    for batch in batches:
        residual = batch.astype(np.float64) - median_filter(batch, size=(1, 3, 3, 1))
        total = total + np.log1p(np.abs(np.fft.fft2(residual, axes=(1, 2)))).mean(axis=3).sum(axis=0)
        count += len(batch)
    return total / count


def highest_peak(spectrum: Spectrum, neighbourhood: int) -> float:
    """How far the highest point stands over the median around it, in standard deviations of all such differences.

    The zero frequency and its neighbours are left out: remains of the content lie there.
    """
    above = spectrum - median_filter(spectrum, size=neighbourhood, mode="wrap")
    row, column = np.meshgrid(*(np.abs(np.fft.fftfreq(n, 1 / n)) for n in spectrum.shape), indexing="ij")
    chosen = above[np.maximum(row, column) > neighbourhood // 2]
    return float(chosen.max() / chosen.std())


def _views(images: Sequence[CorpusImage], side: int) -> Iterator[Pixels]:
    return load_views(images, Preprocessing(views=(View(crop=Crop(mode="centre", size=side)),)))

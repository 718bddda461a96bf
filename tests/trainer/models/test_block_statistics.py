"""Statistics against plain NumPy and SciPy."""

import numpy as np
import torch
from scipy.fft import dctn
from scipy.signal import correlate

from trainer.models.block_statistics import EXTENDED, LAGS, STATISTICS, BlockSpectra


def textures(count: int, seed: int, size: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.normal(128, 30, (count, size, size, 3))).clip(0, 255).astype(np.uint8)


def plain(image: np.ndarray) -> np.ndarray:
    """All statistics, by loops over the description."""
    pixels = image.astype(np.float64)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, red - green, blue - green, green]

    def coefficients(plane: np.ndarray) -> np.ndarray:
        blocks = [plane[y : y + 8, x : x + 8] for y in range(0, len(plane), 8) for x in range(0, len(plane), 8)]
        return np.array([dctn(block, norm="ortho") for block in blocks]).reshape(-1, 64)

    signed = [coefficients(plane) for plane in planes]
    on_grid = [np.abs(found) for found in signed]
    shifted = [np.abs(coefficients(plane[4:-4, 4:-4])) for plane in planes]
    residuals = []
    for plane in planes[:3]:
        p = np.empty((len(plane) - 2, len(plane) - 2))
        for y in range(len(p)):
            for x in range(len(p)):
                p[y, x] = (plane[y : y + 3, x : x + 3] * np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])).sum()
        residuals.append(p)
    powers = [(r**2).mean() + 1 for r in residuals]
    lagged = []
    for residual, power in zip(residuals, powers, strict=True):
        for down, right in LAGS:
            height, width = residual.shape
            products = [
                residual[y, x] * residual[y - down, x - right]
                for y in range(down, height)
                for x in range(width)
                if 0 <= x - right < width
            ]
            lagged.append(np.mean(products) / power)
    grids = (len(luma) - 3) // 4
    places = np.array(
        [
            np.mean([abs(residuals[0][1 + 4 * i + y, 1 + 4 * j + x]) for i in range(grids) for j in range(grids)])
            for y in range(4)
            for x in range(4)
        ]
    )
    by_place = np.log(places + 0.3)
    cross = [(residuals[i] * residuals[j]).mean() / np.sqrt(powers[i] * powers[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    peaked = [np.log((np.sqrt((m**2).mean(axis=0)) + 0.1) / (m.mean(axis=0) + 0.1)) for m in on_grid]
    dark, light = (pixels <= 1).mean(axis=(0, 1)), (pixels >= 254).mean(axis=(0, 1))
    return np.concatenate(
        [
            *(np.log(m.mean(axis=0) + 0.1) for m in on_grid),
            peaked[0],
            *(np.log(m.mean(axis=0) + 0.1) for m in shifted),
            lagged,
            by_place - by_place.mean(),
            cross,
            np.sqrt([*dark, *light]),
            *peaked[1:],
            *(correlation(signed[i], signed[j]) for i, j in ((0, 1), (0, 2), (1, 2))),
            *(figures(planes, kernel) for kernel in HIGH_PASSES),
        ]
    )


HIGH_PASSES = (
    [[-1, 1]],
    [[1, -2, 1]],
    [[1, -3, 3, -1]],
    [[-1], [1]],
    [[1], [-2], [1]],
    [[1], [-3], [3], [-1]],
    [[1, -1], [-1, 1]],
    [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]],
)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each of 64 coefficients over all blocks, about 0."""
    found: np.ndarray = (a * b).mean(axis=0) / np.sqrt(((a**2).mean(axis=0) + 1) * ((b**2).mean(axis=0) + 1))
    return found


def figures(planes: list[np.ndarray], kernel: list[list[int]]) -> list[float]:
    """Strength of three planes, then their peakedness, then their skewness."""
    passed = [correlate(plane, np.array(kernel, np.float64), mode="valid") for plane in planes[:3]]
    strength = [np.abs(p).mean() for p in passed]
    power = [(p**2).mean() for p in passed]
    return [
        *(np.log(s + 0.1) for s in strength),
        *(np.log((np.sqrt(p) + 0.1) / (s + 0.1)) for p, s in zip(power, strength, strict=True)),
        *((p**3).mean() / (e + 1) ** 1.5 for p, e in zip(passed, power, strict=True)),
    ]


def test_the_statistics_are_what_the_description_says() -> None:
    images = textures(3, seed=1)
    images[1, :20] = 255
    images[2] = images[2] // 16
    found = BlockSpectra(extended=True)(torch.from_numpy(images)).numpy()
    assert found.shape == (3, EXTENDED)
    np.testing.assert_allclose(found, [plain(image) for image in images], rtol=2e-4, atol=5e-4)
    np.testing.assert_array_equal(BlockSpectra()(torch.from_numpy(images)).numpy(), found[:, :STATISTICS])

import numpy as np
import pytest
import torch

from trainer.models.fourier import Fourier


@pytest.mark.parametrize("size", [5, 32, 150])
def test_it_is_numpys_both_ways(size: int) -> None:
    planes = np.random.default_rng(0).normal(size=(2, 3, size, size))
    fourier = Fourier(size)
    real, imaginary = fourier(torch.from_numpy(planes).float())
    wanted = np.fft.fft2(planes)
    np.testing.assert_allclose(real.numpy(), wanted.real, atol=1e-4 * size)
    np.testing.assert_allclose(imaginary.numpy(), wanted.imag, atol=1e-4 * size)
    np.testing.assert_allclose(fourier.inverse(real, imaginary).numpy(), planes, atol=1e-4)


def test_only_the_real_part_comes_back() -> None:
    rng = np.random.default_rng(1)
    real, imaginary = rng.normal(size=(2, 16, 16))
    found = Fourier(16).inverse(torch.from_numpy(real).float(), torch.from_numpy(imaginary).float())
    np.testing.assert_allclose(found.numpy(), np.fft.ifft2(real + 1j * imaginary).real, atol=1e-5)

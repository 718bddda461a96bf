"""What the benchmark says of its images."""

import io

import numpy as np
from PIL import Image

from tests.bench.images import SIDE, Images, padded


def test_images_are_different_reproducible_jpegs_of_photographs_size() -> None:
    some = list(Images(0).first(200))
    assert len({Image.open(io.BytesIO(data)).tobytes() for data in some}) == len(some)
    assert all(Image.open(io.BytesIO(data)).size == (SIDE, SIDE) for data in some)
    assert 15_000 <= np.mean([len(data) for data in some]) <= 25_000
    again, other = Images(0), Images(1)
    assert some[7] == again[7] != other[7]


def test_a_padded_image_is_the_same_picture() -> None:
    image = Images(0)[0]
    large = padded(image, 200_000)
    assert 170_000 <= len(large) <= 230_000
    assert Image.open(io.BytesIO(large)).tobytes() == Image.open(io.BytesIO(image)).tobytes()

"""Names for the NumPy arrays that the trainer passes around; docstrings add the shapes."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating[Any]]
"""Floating-point values of any precision."""
Values = Scores | npt.NDArray[np.bool_]
"""Floating-point values, or truth values that count as 0 and 1."""
Features = npt.NDArray[np.float32]
"""What a classifier sees of each image, ``float32[N, F]``."""
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
"""One image, ``uint8[H, W, 3]``."""
Images = npt.NDArray[np.uint8]
"""Several images of one size, ``uint8[N, H, W, 3]``."""

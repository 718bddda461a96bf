"""Post-processing of test images, by the names that recipes use.

The names are ``P``, ``beyond``, those of ``trainer.data.transforms``, ``blur:2.5``, ``jpeg:40``, ``resize:0.9``, and
``degraded``: four copies of each image, degraded as ``augment.degraded_copy`` degrades training images.
"""

from collections.abc import Sequence
from functools import partial

from trainer.data.augment import degraded_copy
from trainer.data.transforms import BEYOND, CLEAN, POST_PROCESSED, TRANSFORMS, Transform, blur, jpeg, resize_and_back
from trainer.errors import BadConfig

_COPIES = 4
_DEGRADED = tuple(Transform(f"degraded {number}", partial(degraded_copy, number=number)) for number in range(_COPIES))
_GROUPS = {"P": POST_PROCESSED, "beyond": BEYOND, "degraded": _DEGRADED}


def changes_of(names: Sequence[str]) -> tuple[Transform, ...]:
    """The transforms of these names.

    Raises:
        BadConfig: there is no such transform.
    """
    return tuple(transform for name in names for transform in (_GROUPS.get(name) or (_one(name),)))


def blurred(sigma: float) -> Transform:
    """The blur of S3's robustness sweep; 0 changes nothing."""
    return CLEAN if sigma == 0 else Transform(f"blur:{sigma:g}", partial(blur, sigma=sigma))


def coded(quality: int) -> Transform:
    """The JPEG coding of S3's robustness sweep; quality 100 is lossy, too."""
    return Transform(f"jpeg:{quality}", partial(jpeg, quality=quality))


def _one(name: str) -> Transform:
    kind, _, amount = name.partition(":")
    try:
        match kind:
            case "blur" if amount:
                return blurred(float(amount))
            case "jpeg" if amount:
                return coded(int(amount))
            case "resize" if amount:
                return Transform(name, partial(resize_and_back, factor=float(amount)))
    except ValueError as error:
        raise BadConfig(f"changes: {name!r}: {error}") from error
    if name not in TRANSFORMS:
        raise BadConfig(
            f"changes: no transform {name!r}, only {', '.join([*_GROUPS, *TRANSFORMS])}, blur:S, jpeg:Q, resize:F"
        )
    return TRANSFORMS[name]

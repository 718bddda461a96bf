"""Random changes to bytes that were valid."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """Something made of what is valid."""

    kind: str
    """Which of the valid ones."""
    data: bytes
    is_harmless: bool = False
    """Whether the same must come out."""


def mutate(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:  # noqa: C901 - a list
    """One change; headers are hit as often as all the rest.

    Args:
        rng: decides.
        data: what is changed.
        other: something valid, of which parts come in.
        words: what means something to those who read.
    """
    if not data:
        data += other
    at = rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data))
    length = rng.choice((1, 2, 4, 8, 64, rng.randrange(1, 1 + len(data))))
    match rng.randrange(9):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = rng.randbytes(min(length, 256))
        case 4:
            data[at:at] = data[at : at + length]
        case 5:
            word = rng.choice(words)
            data[at : at + (len(word) if rng.random() < 0.7 else 0)] = word
        case 6:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            size = rng.choice((2, 4))
            masked = number & (1 << 8 * size) - 1
            data[at : at + size] = masked.to_bytes(size, rng.choice(("big", "little")))
        case 7:
            del data[at:]
        case 8:
            place = rng.randrange(len(other))
            data[at : at + length] = other[place : place + length]

import base64
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from trainer.evaluation.reliability import reliability
from trainer.experiments import plots

RNG = np.random.default_rng(0)
SCORES = RNG.random(40).astype(np.float32)
FLAGS = np.arange(40) % 2 == 0
PICTURES = [RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)] * 2


def draw_all() -> dict[str, str]:
    return {
        "curves": plots.curves({"a": [(0, 1), (1, 2)], "b": [(0, 2)]}, x="x", y="y"),
        "panels": plots.panels({"g": {"a": [(0, 50), (1, 60)]}, "h": {"a": [(0, 1)]}}, x="x", y="y", limits=(0, 100)),
        "precision": plots.precision_recall({"a": (SCORES, FLAGS)}),
        "reliability": plots.reliability_diagram({"a": reliability(SCORES, FLAGS)}),
        "confusion": plots.confusion(["real", "gan"], [[3, 0], [1, 2]]),
        "map": plots.embedding_map(RNG.normal(size=(30, 5)) * 0 + np.arange(30)[:, None], ["a", "b"] * 15),
        "images": plots.image_grid({"row": PICTURES, "other": PICTURES[:1]}, ["0", "50"]),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return draw_all()


def test_every_picture_is_its_own_file(drawn: dict[str, str]) -> None:
    for image in drawn.values():
        head, content = image.split(",", 1)
        data = base64.b64decode(content)
        if head == "data:image/png;base64":
            assert data.startswith(b"\x89PNG")
        else:
            assert head == "data:image/svg+xml;base64"
            links = [
                value for e in ET.fromstring(data).iter() for key, value in e.attrib.items() if key.endswith("href")
            ]
            assert all(link.startswith(("#", "data:")) for link in links)


def test_the_same_figures_give_the_same_bytes(drawn: dict[str, str]) -> None:
    assert plots.precision_recall({"a": (SCORES, FLAGS)}) == drawn["precision"]
    assert plots.confusion(["real", "gan"], [[3, 0], [1, 2]]) == drawn["confusion"]


def test_marks_do_not_hide_a_line_of_many_points() -> None:
    few, many = (plots.curves({"a": [(i, i**2) for i in range(n)]}, x="x", y="y") for n in (30, 3000))
    marks = [
        sum(e.tag.endswith("use") for e in ET.fromstring(base64.b64decode(p.split(",")[1])).iter()) for p in (few, many)
    ]
    assert marks[0] - 30 < marks[1] < marks[0] - 10  # ticks are marks, too


def test_a_spectrum_has_its_zero_frequency_in_the_middle() -> None:
    spectrum = np.zeros((8, 8))
    spectrum[0, 0] = 1.0
    image = plots.spectrum_image(spectrum)
    assert image.dtype == np.uint8
    assert image.argmax() == 4 * 8 + 4

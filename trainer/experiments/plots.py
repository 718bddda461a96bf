"""Figures for the report, each as a ``data:`` address: lines as SVG, images and point clouds as PNG."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from sklearn.manifold import TSNE
from sklearn.metrics import precision_recall_curve

from trainer.arrays import Pixels, Scores
from trainer.evaluation.reliability import Reliability

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#8c6d31", "#444444")
"""Okabe and Ito's colours, which the colour-blind can tell apart, and three more."""
MARKERS: Final = "os^Dvx*P<"
_MARKED: Final = 30
"""A line of more points than this has markers at some of them only, so that the line stays visible."""
_MAP_POINTS: Final = 1200
"""t-SNE takes long for more points, and they would overlap."""

Points = Sequence[tuple[float, float]]


def curves(lines: Mapping[str, Points], *, x: str, y: str) -> str:
    """A line diagram: name -> points (x, y)."""
    canvas, axes = _canvas()
    for number, (name, points) in enumerate(lines.items()):
        every = 1 if len(points) <= _MARKED else 0.1  # of the image's diagonal
        axes.plot(*zip(*points, strict=True), label=name, markevery=every, **_style(number))
    _finish(axes, x, y)
    return _encoded(canvas, "svg")


def panels(groups: Mapping[str, Mapping[str, Points]], *, x: str, y: str, limits: tuple[float, float]) -> str:
    """A small diagram for each group: group -> name -> points; a name has the same style in all."""
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    side = 3.0 if len(groups) > 2 else 4.0
    canvas = Canvas(figsize=(side * columns + 1.6, 2.5 / 3 * side * rows), layout="constrained")
    names = list(dict.fromkeys(name for lines in groups.values() for name in lines))
    drawn: dict[str, Artist] = {}
    for number, (title, lines) in enumerate(groups.items()):
        axes = canvas.add_subplot(rows, columns, number + 1)
        for name, points in lines.items():
            (drawn[name],) = axes.plot(*zip(*points, strict=True), **_style(names.index(name)))
        axes.set_title(title, fontsize=9)
        axes.set_ylim(*limits)
        axes.grid(alpha=0.3)
        axes.set_xlabel(x, fontsize=8)
        axes.set_ylabel(y, fontsize=8)
        axes.tick_params(labelsize=7)
    canvas.legend([drawn[name] for name in names], names, loc="outside right upper", fontsize=7)
    return _encoded(canvas, "svg")


def precision_recall(scores: Mapping[str, tuple[Scores, npt.NDArray[np.bool_]]]) -> str:
    """Curves of name -> (scores ``float[N]``, positive ``bool[N]``), as steps without interpolation."""
    canvas, axes = _canvas()
    for number, (name, (values, positive)) in enumerate(scores.items()):
        precision, recall, _ = precision_recall_curve(positive, values)
        axes.step(recall, precision, where="post", label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.3)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0.4, 1.02)
    _finish(axes, "recall", "precision")
    return _encoded(canvas, "svg")


def reliability_diagram(found: Mapping[str, Reliability]) -> str:
    """Mean probability of *generated* against its share, a point for each bin of equal mass."""
    canvas, axes = _canvas()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for number, (name, reliability) in enumerate(found.items()):
        points = [(row.predicted, row.observed.rate) for row in reliability.table]
        style = _style(number)
        axes.plot(*zip(*points, strict=True), label=f"{name}, ECE {reliability.ece_equal_mass:.3f}", **style)
    _finish(axes, "probability of generated", "share that is generated")
    return _encoded(canvas, "svg")


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix: rows are true labels, columns predicted ones, shaded by the share of the row."""
    table = np.array(counts, float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.55 * len(labels)
    canvas = Canvas(figsize=(side, side), layout="constrained")
    axes = canvas.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        if count:
            shade = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=shade, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("named")
    axes.set_ylabel("truth")
    return _encoded(canvas, "svg")


def embedding_map(embeddings: Scores, labels: Sequence[str]) -> str:
    """A t-SNE map of ``float[N, D]``, of 1,200 at most: neighbours stay neighbours, distances mean nothing."""
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, min(_MAP_POINTS, len(embeddings))).astype(int))
    names = np.array(labels)[chosen]
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    flat = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(embeddings[chosen].astype(np.float32))
    canvas, axes = _canvas(6.0, 5.0)
    for number, name in enumerate(dict.fromkeys(labels)):
        own = flat[names == name]
        marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
        axes.scatter(own[:, 0], own[:, 1], s=9, marker=marker, color=colour, label=name, alpha=0.7, linewidths=0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8, markerscale=2)
    return _encoded(canvas, "png")


def image_grid(rows: Mapping[str, Sequence[Pixels]], columns: Sequence[str], *, grey: bool = False) -> str:
    """A table of images: name of the row -> an image for each column; a row may have fewer."""
    canvas = Canvas(figsize=(1.2 + 1.3 * len(columns), 1.35 * len(rows) + 0.3), layout="constrained")
    for row, (name, images) in enumerate(rows.items()):
        for column in range(len(columns)):
            axes = canvas.add_subplot(len(rows), len(columns), row * len(columns) + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(columns[column], fontsize=8)
            if column == 0:
                axes.set_ylabel(name, fontsize=8)
            if column < len(images):
                axes.imshow(images[column], cmap="gray" if grey else None, interpolation="nearest")
            else:
                axes.axis("off")
    return _encoded(canvas, "png")


def spectrum_image(spectrum: Scores) -> Pixels:
    """A mean log spectrum as grey levels, zero frequency in the middle, between its 1st and 99th percentile."""
    low, high = np.percentile(spectrum, [1, 99.5])
    scaled = (np.fft.fftshift(spectrum) - low) / max(high - low, 1e-12)
    image: Pixels = (255 * scaled.clip(0, 1)).astype(np.uint8)
    return image


def _canvas(width: float = 6.4, height: float = 4.0) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    return canvas, canvas.add_subplot()


def _style(number: int) -> dict[str, Any]:
    marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[number % len(COLOURS)], "marker": marker, "markersize": 4, "linewidth": 1.3}


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _encoded(canvas: Canvas, kind: Literal["svg", "png"]) -> str:
    buffer = io.BytesIO()
    # A fixed salt and no date: the same figures give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "genprint", "svg.fonttype": "none", "font.family": "sans-serif"}):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        canvas.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"

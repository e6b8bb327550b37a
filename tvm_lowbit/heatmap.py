"""Heat maps of explanations: red adds to the explained output, blue takes from it, white does nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tvm_lowbit.images import writing
from tvm_lowbit.result import Result

Array = npt.NDArray[Any]
# An odd number of colours, so that zero has one of its own: the one in the middle.
COLOURS = colormaps["RdBu_r"].resampled(257)
DOTS_PER_INCH = 150
SHEET_COLUMNS = 10
# Up to so many items get a picture each; more share sheets of so many.
MOST_SINGLE, SHEET = 12, 40
# Above this many inputs, bars are drawn as one collection of lines; a patch each takes seconds.
MOST_BARS = 200
_GREY = "#555555"


@dataclass(frozen=True)
class Heatmap:
    """One item and its explanation.

    Attributes
    ----------
    name : str
        Of the item, for the title.
    values, contributions : ndarray
        The input without its batch, and what each element adds.
    output : str
        Name of the explained output.
    prediction, target : int
        The class with the largest value, and the explained one.
    score : float
        The largest value.
    gap : float
        Sum of the contributions less what they should sum to.
    """

    name: str
    values: Array
    contributions: Array
    output: str
    prediction: int
    score: float
    target: int
    gap: float

    @property
    def is_image(self) -> bool:
        """Whether it has rows and columns; channels come first."""
        return self.values.ndim == 3 and min(self.values.shape[1:]) > 1

    @property
    def map(self) -> Array:
        """What is drawn: a value per pixel (the sum over the channels keeps the total), or per element."""
        values = np.asarray(self.contributions, np.float64)
        return values.sum(axis=0) if self.is_image else values.ravel()


def heatmaps(
    inputs: Array, result: Result, explanation: str, which: Sequence[int] | None = None, kind: str = "item"
) -> list[Heatmap]:
    """The heat maps of a batch.

    Parameters
    ----------
    inputs : array
        What the model was run on, its first input.
    result : Result
        What it gave.
    explanation : str
        Key of ``result.explanations``.
    which : sequence of int, optional
        Items to draw; all by default.
    kind : str
        What an item is called, before its number.
    """
    (output, scores), found = next(iter(result.outputs.items())), result.explanations[explanation]
    return [
        Heatmap(
            f"{kind} {i}",
            inputs[i],
            found.contributions[i],
            output,
            int(scores[i].argmax()),
            float(scores[i].max()),
            int(found.target[i]),
            float(found.gap[i]),
        )
        for i in (range(len(inputs)) if which is None else which)
    ]


def symmetric(*maps: Array) -> Normalize:
    """Limits with zero in the middle that hold every value; -1 to 1 where all are zero."""
    largest = max((float(np.abs(values).max(initial=0.0)) for values in maps), default=0.0)
    limit = largest if largest > 0 else 1.0
    return Normalize(-limit, limit)


def draw(item: Heatmap) -> Figure:
    """One item: the input and its contributions, side by side, or one over the other where both are wide."""
    norm = symmetric(item.map)
    height, width = item.map.shape if item.is_image else (1, 3)
    beside = width <= 1.5 * height
    side = max(1.6, min(3.2, 6.4 * height / width)) if not beside else 3.2
    size = (1.4 + 2 * max(2.2, side * width / height), side + 1.1) if beside else (7.2, 2 * side + 1.2)
    figure = Figure(figsize=size if item.is_image else (7.2, 4.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[call-arg, union-attr]
    if item.is_image:
        first, second = figure.subplots(ncols=2) if beside else figure.subplots(nrows=2)
        _picture(first, item)
        _map(second, item, norm)
        first.set_title("input", fontsize=9, color=_GREY)
        second.set_title("contributions", fontsize=9, color=_GREY)
    else:
        first, second = figure.subplots(nrows=2, sharex=True, height_ratios=(1, 2))
        _bars(first, item.values.ravel(), None)
        _bars(second, item.map, norm)
        first.set_ylabel("input")
        second.set_ylabel("contribution")
        second.set_xlabel("input element")
    _scale(figure.colorbar(ScalarMappable(norm, COLOURS), ax=second, fraction=0.05, pad=0.03), "contribution")
    figure.suptitle(
        f"{item.name}: predicted {item.prediction} ({item.output} {item.score:.4g})\n"
        f"contributions to {item.target} sum to {item.contributions.sum(dtype=np.float64):+.4g}, gap {_gap(item.gap)}",
        fontsize=10.5,
        parse_math=False,
    )
    return figure


def draw_sheet(items: Sequence[Heatmap], title: str = "") -> Figure:
    """Many items on one sheet, on one scale: each input over its contributions, or a bar chart each for vectors."""
    norm, images = symmetric(*(item.map for item in items)), items[0].is_image
    columns = min(SHEET_COLUMNS if images else 4, len(items))
    rows = math.ceil(len(items) / columns)
    # Everything is placed in inches: a layout engine would space an input and its map like strangers.
    width = (1.25 if images else 2.5) * max(1.0, 3 / columns)
    aspect = items[0].map.shape[0] / items[0].map.shape[1] if images else 0.55
    height = width * min(2.5, aspect)
    caption, between, margin, top, bar = 0.42, 0.07, 0.15 if images else 0.5, 0.5, 0.85
    block = caption + (2 * height + between if images else height + 0.15)
    across, down = margin + columns * (width + 0.1) + bar, top + rows * block + 0.2
    figure = Figure(figsize=(across, down))

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / across, 1 - (y + h) / down, w / across, h / down))

    for i, item in enumerate(items):
        x, y = margin + (i % columns) * (width + 0.1), top + (i // columns) * block + caption
        upper = place(x, y, width, height)
        if images:
            _picture(upper, item)
            _map(place(x, y + height + between, width, height), item, norm)
        else:
            _bars(upper, item.map, norm)
            upper.tick_params(labelleft=i % columns == 0)
        about = f"predicted {item.prediction}"
        if item.prediction != item.target:
            about = f"{item.prediction}, map of {item.target}"
        upper.set_title(f"{item.name}\n{about}", fontsize=7.5, color=_GREY, pad=3, parse_math=False)
    beside = place(across - bar + 0.05, top + caption, 0.13, min(rows * block - caption - 0.15, 4.0))
    _scale(figure.colorbar(ScalarMappable(norm, COLOURS), cax=beside), "contribution")
    worst = max((item.gap for item in items), key=abs)
    text = f"{title}\n" if title else ""
    figure.text(margin / across, 1 - 0.15 / down, f"{text}largest gap {_gap(worst)}", va="top", parse_math=False)
    return figure


def write_heatmaps(folder: Path, inputs: Array, result: Result, explanation: str) -> list[Path]:
    """Write ``item_0.png`` and so on, or ``sheet_0.png`` and so on for many items.

    Parameters
    ----------
    folder : Path
        Where; made if it is not there.
    inputs, result, explanation
        See `heatmaps`.

    Raises
    ------
    LowbitError
        If they cannot be written.
    """
    items = heatmaps(inputs, result, explanation)
    if len(items) <= MOST_SINGLE:
        return [save(draw(item), folder / f"item_{i}.png") for i, item in enumerate(items)]
    pages = [items[start : start + SHEET] for start in range(0, len(items), SHEET)]
    return [save(draw_sheet(page, explanation), folder / f"sheet_{i}.png") for i, page in enumerate(pages)]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    LowbitError
        If it cannot be written.
    """
    with writing(path) as beside:
        figure.savefig(beside, dpi=DOTS_PER_INCH, format="png")
    return path


def _picture(axes: Axes, item: Heatmap) -> None:
    values = np.asarray(item.values, np.float64)
    low, high = min(0.0, values.min()), max(1.0, values.max())
    if len(values) == 3:
        # Normalised images leave 0..1; they are stretched back into it to be seen.
        axes.imshow(((values - low) / (high - low)).transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(values.mean(axis=0), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    _bare(axes)


def _map(axes: Axes, item: Heatmap, norm: Normalize) -> None:
    axes.imshow(item.map, cmap=COLOURS, norm=norm, interpolation="nearest")
    _bare(axes)


def _scale(bar: Colorbar, label: str) -> None:
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=8.5, color=_GREY)
    bar.ax.tick_params(labelsize=8, color="#bbbbbb")


def _gap(gap: float) -> str:
    return f"{gap:.1e}" if gap else "0"


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)


def _bars(axes: Axes, values: Array, norm: Normalize | None) -> None:
    colours = "#888888" if norm is None else COLOURS(norm(values))
    places = np.arange(len(values))
    if len(values) > MOST_BARS:
        axes.vlines(places, 0, values, colors=colours, linewidth=1)
    else:
        # An edge keeps the pale colours of small contributions visible.
        axes.bar(places, values, width=0.85, color=colours, edgecolor="#999999", linewidth=0.4)
    axes.axhline(0, color=_GREY, linewidth=0.6)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, color="#bbbbbb")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color="#bbbbbb", linewidth=0.6)
    if norm is not None:
        axes.set_ylim(norm.vmin * 1.05, norm.vmax * 1.05)  # type: ignore[operator]

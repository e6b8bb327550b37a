"""Sequence logos: letters as tall as what they add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

COLOURS: Mapping[str, str] = {"A": "#109648", "C": "#255c99", "G": "#f7b32b", "T": "#d62839"}
_WIDTH = 0.95  # of a position
_FONT = FontProperties(family="DejaVu Sans", weight="bold")


def draw_logo(axes: Any, letters: str, scores: NDArray[np.floating], first: int = 0) -> None:
    """Draw each letter from zero to its score, upside down below zero.

    Parameters
    ----------
    axes : matplotlib Axes
        Where to.
    letters : str
        Of A, C, G and T.
    scores : ndarray, shape (len(letters),)
        What each adds.
    first : int
        Position of the first letter on the horizontal axis.
    """
    for position, (letter, score) in enumerate(zip(letters, scores, strict=True), first):
        outline = TextPath((0, 0), letter, size=1, prop=_FONT)
        box = outline.get_extents()
        fit = Affine2D().translate(-box.x0, -box.y0).scale(_WIDTH / box.width, float(score) / box.height)
        fit = fit.translate(position - _WIDTH / 2, 0)
        axes.add_patch(PathPatch(outline.transformed(fit), facecolor=COLOURS[letter], linewidth=0))
    low, high = min(0.0, float(scores.min())), max(0.0, float(scores.max()))
    room = 0.05 * (high - low) or 1.0
    axes.set(xlim=(first - 0.5, first + len(letters) - 0.5), ylim=(low - room, high + room))
    axes.axhline(0, color="black", linewidth=0.6)

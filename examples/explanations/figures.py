"""Pictures of what the experiments gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from explanations.ablation import COUNTS
from explanations.logos import draw_logo
from explanations.methods import METHODS, NEURON_METHODS
from explanations.models import SCHEMES
from explanations.motifs import MOTIFS, matrix
from explanations.shares import strong_matches
from explanations.tables import ABLATION_FIGURE, FLIPS_FIGURE, LOGOS_FIGURE, Rows, scheme_title, select

DOTS = 110  # an inch: small files
SHOWN = "background"  # the reference of the logos
AROUND = 6  # letters shown on either side of the motifs


def draw(rows: Rows, folder: Path) -> None:
    """Write the pictures that the rows fill into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in _FIGURES.items():
        if (made := figure(rows)) is not None:
            made.savefig(folder / name, dpi=DOTS, metadata={"Software": None})
            plt.close(made)


def _flips(rows: Rows) -> Figure | None:
    found = select(rows, "flip")
    return _bars(
        {
            (scheme_title(scheme), method.title): [
                row["mean"] for key, row in found.items() if (key[0], key[2]) == (scheme, name)
            ]
            for scheme in SCHEMES
            for name, method in METHODS.items()
        },
        "fall of the log-odds",
    )


def _ablation(rows: Rows) -> Figure | None:
    found = select(rows, "ablation")
    return _bars(
        {
            (f"{scheme_title(scheme)}, {count} off", method.title): [
                row["drops"][str(count)] for key, row in found.items() if (key[0], key[2]) == (scheme, name)
            ]
            for scheme in SCHEMES
            for count in COUNTS
            for name, method in NEURON_METHODS.items()
        },
        "fall of the logit",
    )


def _bars(figures: Mapping[tuple[str, str], list[float]], label: str) -> Figure | None:
    """Groups of bars, means with standard deviations; groups and bars without figures are left out."""
    known = {key: values for key, values in figures.items() if values}
    if not known:
        return None
    groups, series = (list(dict.fromkeys(key[part] for key in known)) for part in (0, 1))
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    colours = plt.get_cmap("tab10")
    width = 0.85 / len(series)
    for i, title in enumerate(series):
        at = [(g, known[group, title]) for g, group in enumerate(groups) if (group, title) in known]
        places = [g + (i - (len(series) - 1) / 2) * width for g, _ in at]
        errors = [stdev(values) if len(values) > 1 else 0.0 for _, values in at]
        axes.bar(places, [mean(values) for _, values in at], width, yerr=errors, label=title, color=colours(i % 10))
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=3)
    return figure


def _logos(rows: Rows) -> Figure | None:
    """One test sequence around its strong matches (TAL1 on grey, GATA1 on yellow), by method."""
    found = select(rows, "motifs")
    chosen = [
        (f"{scheme_title(scheme)}, {method.title}", row)
        for scheme in SCHEMES
        for name, method in METHODS.items()
        if (row := found.get((scheme, name, SHOWN))) is not None
    ]
    if not chosen:
        return None
    letters = chosen[0][1]["letters"]
    codes = np.array([["ACGT".index(letter) for letter in letters]], np.uint8)
    spans = [(start, start + len(matrix(name)), name) for name in MOTIFS for _, start in strong_matches(codes, name)]
    first = max(0, min((start for start, _, _ in spans), default=0) - AROUND)
    last = min(len(letters), max((end for _, end, _ in spans), default=len(letters)) + AROUND)
    figure, grid = plt.subplots(len(chosen), 1, figsize=(11, 0.95 * len(chosen)), sharex=True, layout="constrained")
    for axes, (title, row) in zip(np.atleast_1d(grid), chosen, strict=True):
        draw_logo(axes, letters[first:last], np.array(row["scores"][first:last]), first)
        for start, end, name in spans:
            axes.axvspan(start - 0.5, end - 0.5, color="0.92" if name == "TAL1" else "#fdf0d5", zorder=-1)
        axes.set_title(title, fontsize=8, loc="left", pad=2)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


_FIGURES: Mapping[str, Callable[[Rows], Figure | None]] = {
    FLIPS_FIGURE: _flips,
    LOGOS_FIGURE: _logos,
    ABLATION_FIGURE: _ablation,
}

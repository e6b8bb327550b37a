"""``markdown``: what `speed` measured, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from explanations.tables import table

HEAD = (
    *("network", "kind", "method", "alone ms", "explained ms", "ratio", "quartiles", "limit"),
    *("torch ms", "Captum ms", "Captum's ratio", "library MB", "peak MB"),
)
_HOW = """\
Prediction with its explanation, in one call, against prediction alone: both compiled by
`tvm_lowbit.build(network, "host", explain=[...])` and called in turns on one thread of this machine ({core}); batch 1,
random weights from seed {seed}. *Ratio* is the median of the pairs' ratios, of at least {fewest} pairs; times are
medians; beside what takes as long as fifty predictions, 24 predictions are timed, half of them before and half after
it, and their mean counts. *W2A2* has 2-bit weights and activations. In each turn torch's float network follows (batch
norm not folded, one thread), and Captum's method of the same name on it, given the class: its conductance and
integrated gradients take all 50 points as one batch, its default. Captum has no RevealCancel. Library and peak (bytes
that it holds at most while it runs, weights aside) are of prediction alone > with the explanation.

ResNet has one dense layer, its last, so `deeplift_genomics` meets no operator to reveal and costs what Rescale does;
`deeplift_reveal_cancel` reveals behind every convolution. `layer3` and `layer4` are these stages' last joins of
branches. A path of 50 pieces has 51 points. The last is the input, which is predicted anyway; each other one takes a
prediction and the way back from the output to the layer: little to `layer4`; to `layer3` it is the transposes of all
convolutions between, 23 % of the network's products. A call of the compiled step takes five points, which read their
weights, and unpack them, once: that is why it is less than five times as much, and what the larger peak is for."""


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    captum = row["captum"]
    theirs = [f"{captum['alone_ms']:.1f}", f"{captum['explained_ms']:.0f}", f"{captum['ratio']:.1f}"] if captum else []
    limit = "" if row["limit"] is None else f"{row['limit']:g}"
    low, high = row["quartiles"]
    sizes = [
        " > ".join(f"{row[key][part] / 1e6:.1f}" for key in ("bytes_alone", "bytes_explained"))
        for part in ("library", "peak")
    ]
    times = [f"{row['alone_ms']:.1f}", f"{row['explained_ms']:.0f}", f"{row['ratio']:.2f}"]
    names = [row["network"], row["kind"], row["method"]]
    return [*names, *times, f"{low:.2f} to {high:.2f}", limit, *(theirs or [""] * 3), *sizes]


def markdown(result: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    result : mapping
        What `speed` writes as JSON.
    """
    rows = result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    how = _HOW.format(core=result["core"], seed=result["seed"], fewest=min(row["pairs"] for row in rows))
    above = [
        f"- {row['kind']}, {row['method']}: {row['ratio']:.2f} instead of {row['limit']:g}"
        for row in rows
        if row["limit"] is not None and row["ratio"] > row["limit"]
    ]
    lines = ["# What explanations cost", "", f"Written by `python -m explanations.speed`; {versions}.", "", how, ""]
    lines += [*table(HEAD, map(cells, rows)), ""]
    return "\n".join([*lines, *(["Above their limits:", "", *above, ""] if above else [])])

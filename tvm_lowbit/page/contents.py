"""What the page shows, worked out from a result: items, their maps, outputs and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.errors import LowbitError
from tvm_lowbit.page.pixels import colour, data_uri, input_pixels, map_pixels, overlay_pixels, rows_and_columns
from tvm_lowbit.result import Explanation, Result

Array = npt.NDArray[Any]
# What a map is drawn of, the first that the method gives, and what its colours say.
FIELDS = {
    "contributions": "red adds to the explained output, blue takes from it, white does nothing",
    "map": "red speaks for the explained output, blue against it, white for nothing",
    "entropy": "the redder, the more paths of like weight lead to the explained output",
    "multipliers": "the explained output rises with the input where red, falls where blue, stays where white",
    "weights": "the weight of the best path to the explained output: red above zero, blue below, white none",
}
MOST_ITEMS, MOST_OUTPUTS, MOST_BARS = 12, 6, 400


@dataclass(frozen=True)
class Bar:
    """A value on a shared scale; ``start`` and ``length`` are percentages of the scale's width."""

    label: str
    value: float
    start: float
    length: float
    colour: str = ""
    marked: bool = False


@dataclass(frozen=True)
class LayerBar:
    """What a layer's units add and take; ``net`` is their sum, ``gap`` how far it is from the output's difference."""

    label: str
    units: int
    positive: Bar
    negative: Bar
    net: float
    net_at: float
    gap: float | None


@dataclass(frozen=True)
class Item:
    """One item of the batch and one target."""

    title: str
    field: str | None
    limit: float
    image: str | None
    heat: str | None
    overlay: str | None
    wide: bool
    bars: Sequence[Bar]
    left_out: int
    outputs: Sequence[Bar]
    output_name: str
    predicted: str
    target: str
    total: float | None
    gap: float | None
    share: float | None
    layers: Sequence[LayerBar]
    top_units: Mapping[str, str]
    hops: Sequence[tuple[str, int]]


def items_of(inputs: Array, result: Result, name: str) -> list[Item]:
    """The items of a result, each with each of its targets.

    Raises
    ------
    LowbitError
        If the method gives nothing to show, neither of the input nor of layers.
    """
    found = result.explanations[name]
    field = next((f for f in FIELDS if f in found.values), None)
    if field is None and not found.layers:
        given = ", ".join(found.values) or "nothing"
        raise LowbitError(f"explanation {name}", f"one with {' or '.join(FIELDS)}, or of layers", given)
    several = isinstance(found.method.target, list)
    places = [(i, t) for i in range(min(len(inputs), MOST_ITEMS)) for t in _targets(found, several)]
    return [_item(inputs[i], result, found, field, i, t) for i, t in places]


def _targets(found: Explanation, several: bool) -> list[int | None]:
    return list(range(len(found.method.target))) if several else [None]


def _at(array: Array, i: int, target: int | None) -> Array:
    return np.asarray(array[i] if target is None else array[i, target])


def _item(values: Array, result: Result, found: Explanation, field: str | None, i: int, t: int | None) -> Item:
    drawn = np.asarray(_at(found.values[field], i, t), np.float64) if field else np.zeros(0)
    seen = rows_and_columns(values)
    heat = _heat(drawn, values.ndim)
    flat = drawn.ravel()
    limit = float(np.abs(heat if heat is not None else flat).max(initial=0.0)) or 1.0
    image = input_pixels(seen) if seen is not None else None
    same = image is not None and heat is not None and heat.shape == image.shape[:2]
    order = np.sort(np.argsort(-np.abs(flat), kind="stable")[:MOST_BARS])
    bars = [] if heat is not None else [_bar(f"{k}", float(flat[k]), limit) for k in order]
    name, scores = next(iter(result.outputs.items()))
    chosen = int(_at(found.values["target"], i, t)) if "target" in found.values else None
    gap = float(_at(found.values["gap"], i, t)) if "gap" in found.values else None
    total = float(drawn.sum()) if field == "contributions" else None
    change = total - gap if total is not None and gap is not None else None
    return Item(
        f"item {i}" + ("" if t is None else f", {_text(found.method.target[t])}"),
        field,
        limit,
        data_uri(image) if image is not None else None,
        data_uri(map_pixels(heat, limit)) if heat is not None else None,
        data_uri(overlay_pixels(image, heat, limit)) if same and image is not None and heat is not None else None,
        heat is not None and heat.shape[1] > 2 * heat.shape[0],
        bars,
        len(flat) - len(order) if heat is None else 0,
        _outputs(scores[i].ravel(), chosen),
        name,
        _predicted(scores[i]),
        _target(found, i, t),
        total,
        gap,
        None if gap is None or not change else abs(gap / change),
        layer_bars(found, i, t, change),
        _top_units(found, i, t),
        _hops(found, i, t),
    )


def _heat(drawn: Array, rank: int) -> Array | None:
    """Rows and columns of a map; contributions of all channels keep their sum, a map of the pixels alone stays."""
    if drawn.ndim != rank:
        return drawn if drawn.ndim == 2 else None
    shaped = rows_and_columns(drawn)
    return None if shaped is None else np.asarray(shaped.sum(axis=0))


def _hops(found: Explanation, i: int, t: int | None) -> list[tuple[str, int]]:
    """The values that a path passes, and where."""
    if "path" not in found.values:
        return []
    places = _at(found.values["path"], i, t)
    return [(name, int(at)) for name, at in zip(found.columns("path"), places, strict=True) if at >= 0]


def _predicted(scores: Array) -> str:
    """The largest output and where it is."""
    place = np.unravel_index(int(scores.argmax()), scores.shape)
    return f"{', '.join(map(str, place))} ({scores.max():.4g})"


def _target(found: Explanation, i: int, t: int | None) -> str:
    """The target of an item; for what is found at run time, what was found."""
    target = found.method.target if t is None else found.method.target[t]
    if target == "argmax" and "target" in found.values:
        return f"{int(_at(found.values['target'], i, t))}, the largest"
    return _text(target)


def _text(target: Any) -> str:
    """A target in words."""
    if isinstance(target, dict) and "class" in target:
        minus = "the mean of all" if target.get("minus") == "mean" else target.get("minus")
        return f"{target['class']} less {minus}"
    if isinstance(target, dict) and "index" in target:
        return f"element {tuple(target['index'])}"
    return "the largest output" if target == "argmax" else str(target)


def _bar(label: str, value: float, limit: float, marked: bool = False) -> Bar:
    length = 50 * min(1.0, abs(value) / limit)
    return Bar(label, value, 50 - length if value < 0 else 50.0, length, colour(value, limit), marked)


def _outputs(scores: Array, chosen: int | None) -> list[Bar]:
    """The largest outputs, and the explained one."""
    order = list(np.argsort(-scores, kind="stable")[:MOST_OUTPUTS])
    if chosen is not None and chosen < len(scores) and chosen not in order:
        order[-1] = chosen
    limit = float(np.abs(scores).max(initial=0.0)) or 1.0
    return [_bar(str(k), float(scores[k]), limit, k == chosen) for k in order]


def layer_bars(found: Explanation, i: int, t: int | None, change: float | None) -> list[LayerBar]:
    """What is added and taken in each layer that the explanation names, on one scale."""
    sums = {}
    for layer, values in found.layers.items():
        if "contributions" in values:
            shares = np.asarray(_at(values["contributions"], i, t), np.float64)
            gap = float(_at(values["gap"], i, t)) if "gap" in values else None
            sums[layer] = (shares.size, float(shares[shares > 0].sum()), float(shares[shares < 0].sum()), gap)
    ends = [abs(v) for _, plus, minus, _ in sums.values() for v in (plus, minus)]
    limit = max([*ends, abs(change or 0.0)], default=0.0) or 1.0
    rows = []
    for layer, (units, plus, minus, gap) in sums.items():
        net = plus + minus
        at = 50 + 50 * net / limit
        rows.append(LayerBar(layer, units, _bar("+", plus, limit), _bar("-", minus, limit), net, at, gap))
    return rows


def _top_units(found: Explanation, i: int, t: int | None, most: int = 3) -> dict[str, str]:
    """The channels of each layer that add or take most, in words."""
    words = {}
    for layer, values in found.layers.items():
        field = next((f for f in ("contributions", "importance", "multipliers") if f in values), None)
        if field is not None:
            shares = np.asarray(_at(values[field], i, t), np.float64)
            channels = shares.reshape(len(shares), -1).sum(axis=1) if shares.ndim else shares[None]
            order = np.argsort(-np.abs(channels), kind="stable")[:most]
            words[layer] = ", ".join(f"{k}: {channels[k]:+.3g}" for k in order)
    return words

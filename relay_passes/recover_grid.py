"""``RecoverGrid``: float constant weights whose values lie on a grid become quantised weights.

Exporters that fold constants (torch's, by default) leave a convolution's weights as floats and fold batch norm into
them; what is left of the quantiser is that each output channel holds multiples of one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, moved, notes
from relay_passes.constants import Constants
from relay_passes.coverage import Coverage, Spelling
from relay_passes.exclude import excluded
from relay_passes.ops import FAKE_QUANT, fake_quant, literal, op_name, quant_spec
from relay_passes.quant_spec import NoMatch, QuantSpec
from relay_passes.two_scales import halves, two_scales

# Largest deviation from the grid: as many roundings to float32, of the channel's largest weight, as quantising, batch
# norm and its folding may have left.
ROUNDINGS = 4 * 2.0**-24
# Values looked at before a step is tried on the whole channel.
SAMPLE = 64
# A tensor is on a grid only if chance would put it there less often than this (decimal logarithm).
CHANCE = -4.0
# How often two float32 numbers of one sign and magnitude are equal by chance (decimal logarithm).
REPEATED = -7.0

# Operators that hand on the values of what they read, or pick among them; a reader that cannot take them so says why.
MOVES = frozenset({*moved.MOVES, "relax.split", "relax.nn.pad"})
# The axis of a layer's weights that runs along its outputs.
OUTPUT_AXIS = {
    "relax.nn.conv1d": 0,
    "relax.nn.conv2d": 0,
    "relax.nn.conv1d_transpose": 1,
    "relax.nn.conv2d_transpose": 1,
    "relax.matmul": -1,
}


def recover_grid(mod: Any, each: dataflow.Each = dataflow.no_layers) -> Any:
    """Apply the pass to layers whose input is quantised and whose weights depend on constants only.

    A weight may deviate from its grid by 4 float32 roundings (``4 * 2**-24``) of the largest weight of its channel, so
    a layer's outputs move by no more than their own roundings in float may. ``each`` is told the layers. Notes: topic
    ``off_grid`` holds, for each layer whose weights lie on no grid, the reason.
    """
    function = mod["main"]
    constants, left_alone = Constants(function), excluded(mod)
    quantised: set[Any] = set()
    # Of what is quantised: activations with a scale for each channel, of which no layer is low-bit.
    by_channel: set[Any] = set()
    specs: dict[Any, tuple[int, npt.NDArray[np.float32], tuple[QuantSpec, ...]]] = {}
    reasons: dict[str, str] = {}
    weights: set[Any] = set()
    layers = sum(op_name(binding.value) in OUTPUT_AXIS for binding in dataflow.bindings(function))
    number = 0
    for binding in dataflow.bindings(function):
        value, operator = binding.value, op_name(binding.value)
        name = dataflow.name_of(binding.var)
        if operator in OUTPUT_AXIS:
            number += 1
            each(name, number, layers)
        if operator == FAKE_QUANT:
            if quant_spec(value).axis is not None:
                by_channel.add(binding.var)
            (quantised if constants.value(value.args[0]) is None else weights).add(binding.var)
        elif operator in MOVES or not operator:
            # Tuples and their entries too: what Concat reads and Split gives.
            read = [var for var in dataflow.variables(value) if constants.value(var) is None]
            if not read or not all(var in quantised for var in read):
                continue
            quantised.add(binding.var)
            if any(var in by_channel for var in read):
                by_channel.add(binding.var)
        elif operator in OUTPUT_AXIS and name not in left_alone:
            left = operator == "relax.matmul" and value.args[1] in quantised
            if not (left or value.args[0] in quantised):
                continue
            side = 0 if left else 1
            array = None if value.args[side] in weights else constants.value(value.args[side])
            if array is None or array.dtype != np.float32 or array.ndim < 2:
                continue
            # The rows of a matrix on the left are its outputs.
            axis = (-2 if left else OUTPUT_AXIS[operator]) % array.ndim
            # Two layers of what stays float would take twice as long as one.
            may_split = value.args[1 - side] not in by_channel and (operator != "relax.matmul" or array.ndim == 2)
            found = _grids_of(array, axis, may_split)
            if isinstance(found, NoMatch):
                reasons[name] = found.reason
            else:
                specs[binding.var] = side, array, found

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        name = dataflow.name_of(var)
        if var not in specs:
            return dataflow.bind(value, name, scope)
        side, array, found = specs[var]
        if len(found) == 1:
            return dataflow.bind(_layer(value, side, array, found[0], name, scope), name, scope)
        parts = zip(("positive", "negative"), halves(array), found, strict=True)
        both = [
            scope.emit(_layer(value, side, part, spec, f"{name}/{sign}", scope), f"{name}/{sign}")
            for sign, part, spec in parts
        ]
        return scope.emit(relax.op.add(*both), name)

    return notes.add(dataflow.rebuild(mod, visit), "off_grid", reasons)


def _grids_of(array: npt.NDArray[np.float32], axis: int, may_split: bool) -> tuple[QuantSpec, ...] | NoMatch:
    """One quantiser of the weights, or two whose values sum up to them."""
    found = grid_of(array, axis)
    if not isinstance(found, NoMatch):
        return (found,)
    return (two_scales(array, axis, ROUNDINGS) if may_split else None) or found


def _layer(
    call: Any, side: int, array: npt.NDArray[np.float32], spec: QuantSpec, name: str, scope: dataflow.Scope
) -> Any:
    """The layer with quantised weights on one of its sides."""
    args = list(call.args)
    args[side] = scope.emit(fake_quant(literal(np.ascontiguousarray(array)), spec), f"{name}/weights")
    return type(call)(call.op, args, attrs=call.attrs)


def grid_of(array: npt.NDArray[np.float32], axis: int) -> QuantSpec | NoMatch:
    """The quantiser, at most 8 bits, whose values float weights are, one step for each index along ``axis``.

    Of a grid of multiples of the step and one of odd multiples of half a step, the one of fewer bits.
    """
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if not np.all(np.isfinite(rows)):
        return NoMatch("they hold NaN or infinity")
    found: list[QuantSpec] = []
    declined: list[NoMatch] = []
    for offset in (0.0, 0.5):
        spec = _on_grid(rows, offset, axis)
        if isinstance(spec, NoMatch):
            declined.append(spec)
        else:
            found.append(spec)
    return min(found, key=lambda spec: spec.bits) if found else declined[0]


def _on_grid(rows: npt.NDArray[np.float32], offset: float, axis: int) -> QuantSpec | NoMatch:
    steps, low, high, chance = np.ones(len(rows)), 0, int(2 * offset), 0.0
    seen: set[tuple[float, ...]] = set()
    for i, row in enumerate(rows):
        values = row[row != 0].astype(np.float64)
        if offset and values.size < row.size:
            return NoMatch("they hold 0, which lies between the codes")
        if values.size == 0:
            continue
        step, deviation = _step(values, offset)
        if step is None:
            return NoMatch(
                f"as floats they lie on no grid of at most 8 bits: channel {i} deviates from the nearest one by "
                f"{deviation:.2g} of a step"
            )
        steps[i] = step
        codes = np.rint(values / step + offset)
        low, high = min(low, int(codes.min())), max(high, int(codes.max()))
        ratios = tuple(np.unique((np.abs(values) / np.abs(values).max()).round(6)))
        if len(ratios) == 1:  # on a grid whatever it is, but repeated by chance seldom
            chance += REPEATED * (values.size - 1)
        elif ratios not in seen:
            seen.add(ratios)
            chance += _by_chance(len(ratios), float(np.abs(values).max()) / step)
    if high - low > 255:
        return NoMatch(f"the grid that they lie on takes {(high - low).bit_length()} bits; 1 to 8 are supported")
    if chance > CHANCE:
        return NoMatch("they are too few to tell a grid from any other numbers")
    scale = steps.astype(np.float32)
    zero = np.full_like(scale, offset)
    return QuantSpec(scale, zero, low, high, axis, "divide_shifted" if offset else "divide")


def _by_chance(magnitudes: int, largest: float) -> float:
    """How often different magnitudes, the largest so many steps, are on a grid by chance; decimal logarithm.

    One of them sets the step, of which there are ``largest`` to try; each of the others falls within tolerance.
    """
    return min(0.0, float(np.log10(largest) + (magnitudes - 1) * np.log10(2 * ROUNDINGS * largest)))


def _step(values: npt.NDArray[np.float64], offset: float) -> tuple[float | None, float]:
    """The largest step that one channel's values are multiples of, and the deviation (in steps) at the best one."""
    largest = float(np.abs(values).max())
    sample = values[:: max(1, values.size // SAMPLE)]
    tried = largest / (np.arange(1, 256) - offset)
    beyond, deviations = _excess(sample, tried[:, None], offset)
    best = float(tried[deviations.argmin()])
    # The largest value has roundings of its own, and so have steps that are taken from it: twice the tolerance.
    fits = tried[beyond <= ROUNDINGS * np.abs(largest / tried)]
    for step in fits:
        codes = np.rint(values / step + offset) - offset
        refined = float(np.float32(values @ codes / (codes @ codes)))  # least squares over all of the channel
        if _excess(values, refined, offset)[0] <= 0:
            return refined, 0.0
        best = refined
    return None, float(_excess(values, best, offset)[1])


def _excess(values: npt.NDArray[np.float64], step: Any, offset: float) -> tuple[Any, Any]:
    """How far beyond tolerance, and how far from the grid at all, values lie at most (in steps); one for each step."""
    scaled = values / step + offset
    deviation = np.abs(scaled - np.rint(scaled))
    allowed = ROUNDINGS * np.abs(scaled - offset).max(-1)
    return deviation.max(-1) - allowed, deviation.max(-1)


SPELLINGS = (
    Spelling(
        "recover_grid",
        "weights that an exporter folded to floats: multiples, or odd multiples of half, of one step a channel, "
        "but for 4 float32 roundings (4 * 2^-24) of the channel's largest; ternary ones with a scale on either side of "
        "0 (TTQ) as two layers of one bit",
        Coverage(("ONNX", "torch", "Relax"), activations=(), signs=()),
        grid_of,
    ),
)

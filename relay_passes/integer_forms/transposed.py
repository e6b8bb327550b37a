"""Transposed convolutions: one ordinary low-bit product for each phase of the stride, then interleaved.

Output position ``p`` sums ``x[q] w[k]`` over the taps with ``q stride = p + padding - k dilation``. For positions of
one remainder by the stride these are the same taps, at input positions that move by one: an ordinary convolution of
stride 1 with some of the taps in reverse order. So no zeros are spread between codes, no product is wasted, and no code
for 0.0 is needed (W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 1609.07009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from relay_passes import dataflow
from relay_passes.integer_forms.base import Layers, Taken
from relay_passes.integer_forms.products import (
    Factors,
    Inputs,
    Weights,
    dot,
    factors,
    problem_of,
    values,
    wrong_layout,
)
from relay_passes.interleave import interleave
from relay_passes.ops import shape_of
from relay_passes.problem import Geometry
from relay_passes.quant_spec import NoMatch


@dataclass(frozen=True)
class Phase:
    """The output positions of one remainder along one axis, as an ordinary convolution of stride 1.

    ``taps`` are positions of the transposed convolution's kernel, in the order of the ordinary one's.
    """

    taps: tuple[int, ...]
    dilation: int
    before: int
    after: int


def phases(size: int, out: int, kernel: int, stride: int, dilation: int, padding: int) -> list[Phase]:
    """One for each remainder that occurs among the ``out`` positions; without taps where only zeros are added."""
    found = []
    for first in range(min(stride, out)):
        count = -(-(out - first) // stride)
        # Where each tap finds the input of position `first`.
        places = {k: divmod(first + padding - k * dilation, stride) for k in range(kernel)}
        at = {k: place for k, (place, rest) in places.items() if rest == 0}
        if not at:
            found.append(Phase((), 1, 0, 0))
            continue
        taps = tuple(sorted(at, key=at.__getitem__))
        step = at[taps[1]] - at[taps[0]] if len(taps) > 1 else 1
        found.append(Phase(taps, step, -at[taps[0]], count + at[taps[-1]] - size))
    return found


def transposed(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``conv2d_transpose`` or ``conv1d_transpose`` of codes and quantised constant weights."""
    sides = factors(layers, name, *call.args[:2])
    if isinstance(sides, NoMatch):
        return sides
    reason = wrong_layout(call)
    if reason is not None:
        return reason
    at = Geometry.of(call.attrs)
    a, w = Inputs.of(sides.x, 1, at.groups), _weights(sides, at.groups)
    if isinstance(a, NoMatch):
        return a
    if isinstance(w, NoMatch):
        return w
    source, shape = sides.x.codes, shape_of(call)
    sizes = [_image(shape_of(source)), _image(shape), w.codes.shape[2:], at.stride, at.dilation, at.padding[:2]]
    grid = [phases(*(each[axis] for each in sizes)) for axis in range(2)]
    plans = [_part(w, at.groups, *pair) for pair in product(*grid)]
    taken = []
    for plan in plans:
        problem = plan and problem_of(name, source, a, *plan)
        if isinstance(problem, NoMatch):
            return problem
        taken += [problem] if problem else []
    if not taken:
        return NoMatch("no tap of its kernel reaches an output")
    parts = [None if plan is None else dot(name, source, a, *plan, scope) for plan in plans]
    stride = [min(s, extent) for s, extent in zip(at.stride, _image(shape), strict=True)][4 - len(shape) :]
    acc = parts[0] if len(parts) == 1 else scope.emit(interleave(parts, stride, shape), f"{name}/interleaved")
    return values(layers, name, call, acc, a, w, 1, max(taken, key=lambda p: p.accumulator_bound()))


def _image(shape: tuple[int, ...]) -> tuple[int, int]:
    return (1 if len(shape) == 3 else shape[2], shape[-1])


def _weights(sides: Factors, groups: int) -> Weights | NoMatch:
    """IOHW or IOW weights, outputs first."""
    codes, spec = sides.codes, sides.spec
    per_group = codes.shape[1]
    ordered = codes.reshape(groups, codes.shape[0] // groups, *codes.shape[1:]).swapaxes(1, 2)
    ordered = ordered.reshape(groups * per_group, -1, *codes.shape[2:])
    if spec.axis == 0 and codes.shape[0] == groups:  # depthwise: an input of its own for each output
        scale, zero = (v if v.size == 1 else np.repeat(v, per_group) for v in (spec.scale, spec.zero_point))
        return Weights.of(ordered, replace(spec, scale=scale, zero_point=zero))
    # The scale runs along the outputs of one group, and is the same for all groups.
    return sides.along(1) or Weights.of(ordered, spec, groups)


def _part(w: Weights, groups: int, rows: Phase, columns: Phase) -> tuple[Weights, Geometry] | None:
    """Weights and geometry of one phase; None if it has no taps."""
    if not (rows.taps and columns.taps):
        return None
    codes = np.ascontiguousarray(w.codes[:, :, list(rows.taps)][..., list(columns.taps)])
    padding = (rows.before, columns.before, rows.after, columns.after)
    return replace(w, codes=codes), Geometry((1, 1), (rows.dilation, columns.dilation), padding, groups)

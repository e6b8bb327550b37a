"""Convolutions and dense layers: one low-bit ``dot`` each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import Layers, Taken, scaled
from relay_passes.ops import constant, literal, shape_of
from relay_passes.problem import Geometry, dot_attrs, dot_problem, dot_shape
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules.dot_problem import DotProblem, Operand

Codes = npt.NDArray[np.uint8]

# Layouts of data and weights that a convolution must have.
LAYOUTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "relax.nn.conv1d": ("NCW", "OIW"),
        "relax.nn.conv2d": ("NCHW", "OIHW"),
        "relax.nn.conv1d_transpose": ("NCW", "IOW"),
        "relax.nn.conv2d_transpose": ("NCHW", "IOHW"),
    }
)


@dataclass(frozen=True)
class Factors:
    """Both sides of a product, of which only the weights are known.

    Attributes
    ----------
    x : Quantised
        The activations.
    codes : uint8 array
        The weights as the operator has them.
    spec : QuantSpec
        Their quantiser.
    """

    x: Quantised
    codes: Codes
    spec: QuantSpec

    def along(self, axis: int) -> NoMatch | None:
        """Why the weights' scale does not run along the outputs, which are this axis."""
        if self.spec.axis in (None, axis) or self.spec.scale.size == self.spec.zero_point.size == 1:
            return None
        return NoMatch(f"its weights are quantised along axis {self.spec.axis}, which is not that of the outputs")


@dataclass(frozen=True)
class Weights:
    """Weights as kernels take them: codes ``(O, C / groups, kh, kw)``, offset and step ``(O,)``."""

    codes: Codes
    operand: Operand
    offset: npt.NDArray[np.int32]
    step: npt.NDArray[np.float64]

    @classmethod
    def of(cls, codes: Codes, spec: QuantSpec, repeat: int = 1) -> Weights:
        """``spec`` runs along the output channels, ``repeat`` times over, or along none of the axes."""
        outputs = codes.shape[0]
        offset, step = (
            np.broadcast_to(v.reshape(-1) if v.size == 1 else np.tile(v, repeat), (outputs,))
            for v in (spec.offset, spec.step)
        )
        codes = np.ascontiguousarray(codes.reshape(*codes.shape[:2], *(1,) * (4 - codes.ndim), *codes.shape[2:]))
        return cls(codes, spec.operand, offset.astype(np.int32), step)


@dataclass(frozen=True)
class Inputs:
    """Activations as kernels take them; ``step`` is ``(groups,)``, that of each group's channels."""

    operand: Operand
    step: npt.NDArray[np.float64]

    @classmethod
    def of(cls, x: Quantised, axis: int, groups: int) -> Inputs | NoMatch:
        """Of codes whose channels are ``axis``: all of a group must stand for multiples of one step."""
        spec, channels = x.spec, x.shape[axis]
        if spec.axis is None:
            return cls(spec.operand, np.broadcast_to(spec.step.reshape(-1), (groups,)))
        if spec.axis != axis:
            return NoMatch(f"its input is quantised along axis {spec.axis}, which is not that of the channels")
        step = np.broadcast_to(spec.step, (channels,)).reshape(groups, -1)
        if np.any(step != step[:, :1]):
            return NoMatch(
                "its input is quantised per channel, so products of different channels have different scales"
            )
        if np.any(spec.offset != spec.offset.flat[0]):
            return NoMatch("its input is quantised per channel with different zero points")
        return cls(Operand(spec.bits, spec.multiplier, int(spec.offset.flat[0])), step[:, 0])


def factors(layers: Layers, name: str, x: Any, weights: Any) -> Factors | NoMatch:
    """Both sides of a product, or why one is not quantised."""
    quantised, stored = layers.quantised(x), layers.weights.get(weights)
    if quantised is None:
        return layers.why_not_quantised("input is", x)
    if stored is None:
        declined = layers.names.get(weights, "") in layers.declined
        if name in layers.off_grid and not declined:
            return NoMatch(f"its weights are not quantised: {layers.off_grid[name]}")
        return layers.why_not_quantised("weights are", weights)
    return Factors(quantised, *stored)


def wrong_layout(call: Any) -> NoMatch | None:
    """Why a convolution's layouts are not supported."""
    data, kernel = LAYOUTS[call.op.name]
    a = call.attrs
    if (a.data_layout, a.kernel_layout) == (data, kernel) and a.out_layout in ("", data):
        return None
    return NoMatch(f"its layout is {a.data_layout} with {a.kernel_layout}, not {data} with {kernel}")


def problem_of(name: str, source: Any, a: Inputs, w: Weights, at: Geometry) -> DotProblem | NoMatch:
    """What a ``dot`` will compute, if its sums fit."""
    problem = dot_problem(shape_of(source), w.codes.shape, dot_attrs(name, a.operand, w.operand, at))
    reason = problem.declines()
    return problem if reason is None else NoMatch(reason)


def dot(name: str, source: Any, a: Inputs, w: Weights, at: Geometry, scope: dataflow.Scope) -> Any:
    """Emit the ``dot``: accumulators of the rank of its codes."""
    attrs = dot_attrs(name, a.operand, w.operand, at)
    out = dot_shape(dot_problem(shape_of(source), w.codes.shape, attrs), len(shape_of(source)))
    return scope.emit(ops.dot(source, literal(w.codes), literal(w.offset), out, **attrs), f"{name}/dot")


def values(
    layers: Layers, name: str, call: Any, acc: Any, a: Inputs, w: Weights, axis: int, problem: DotProblem
) -> Taken:
    """What is known of the layer's result, whose channels are ``axis``, and its row in the report."""
    layers.rows[name] = {"op": str(call.op.name), "bits": problem.name}
    step = np.repeat(a.step, len(w.step) // len(a.step)) * w.step
    step = step[:1] if np.all(step == step[0]) else step
    return scaled(acc, axis, problem.accumulator_bound(), step)


def shaped(expr: Any, shape: tuple[int, ...], name: str, scope: dataflow.Scope) -> Any:
    """Emit a reshape where one is needed."""
    return expr if shape_of(expr) == shape else scope.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))), name)


def convolution(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``conv2d``, or ``conv1d`` as one of height 1, of codes and quantised constant weights."""
    sides = factors(layers, name, *call.args[:2])
    if isinstance(sides, NoMatch):
        return sides
    at = Geometry.of(call.attrs)
    reason = wrong_layout(call) or sides.along(0)
    if reason is not None:
        return reason
    a, w = Inputs.of(sides.x, 1, at.groups), Weights.of(sides.codes, sides.spec)
    if isinstance(a, NoMatch):
        return a
    problem = problem_of(name, sides.x.codes, a, w, at)
    if isinstance(problem, NoMatch):
        return problem
    return values(layers, name, call, dot(name, sides.x.codes, a, w, at, scope), a, w, 1, problem)


def matmul(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``x @ W``: a dense layer over the rows of x. ``W @ x``: a convolution of one tap over its columns."""
    left, right = call.args
    first = left in layers.weights or constant(left) is not None
    sides = factors(layers, name, right, left) if first else factors(layers, name, left, right)
    if isinstance(sides, NoMatch):
        return sides
    codes, x = sides.codes, sides.x
    if codes.ndim > 2 and any(extent != 1 for extent in codes.shape[:-2]):
        return NoMatch(f"its weights have {codes.ndim} dimensions, not 2")
    outputs = codes.ndim - (2 if first else 1) if codes.ndim > 1 else -1
    inputs = len(x.shape) - (2 if first and len(x.shape) > 1 else 1)
    reason, a = sides.along(outputs), Inputs.of(x, inputs, 1)
    if reason is not None:
        return reason
    if isinstance(a, NoMatch):
        return a
    # (O, K); a vector is one output.
    rows = codes.reshape(1, -1) if codes.ndim == 1 else codes.reshape(codes.shape[-2:])
    w = Weights.of(rows if first or codes.ndim == 1 else rows.T, sides.spec)
    columns = first and len(x.shape) > 1
    shape = shape_of(call)
    if not shape:
        return NoMatch("its result is a single number")
    batch = int(np.prod(x.shape[: inputs if columns else -1]))
    source = shaped(x.codes, (batch, *x.shape[inputs:]), f"{name}/rows", scope)
    problem = problem_of(name, source, a, w, Geometry())
    if isinstance(problem, NoMatch):
        return problem
    acc = shaped(dot(name, source, a, w, Geometry(), scope), shape, f"{name}/shaped", scope)
    axis = len(shape) - (2 if columns and codes.ndim > 1 else 1)
    return values(layers, name, call, acc, a, w, axis, problem)

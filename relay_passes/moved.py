"""``Moved``: a tensor of which every element is an element of some tensor before it, or the largest of several.

Moving commutes with every function of single elements, so what follows (a bias, ReLU, a quantiser) can be done to the
parts where they are, and the codes be moved instead. How constants vary along a part is found by moving labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.canonicalize import REARRANGE
from relay_passes.ops import constant, literal, op_name, shape_of

Array = npt.NDArray[Any]


class Uneven(Exception):
    """Elements that are picked from, or meet in one channel of a part, do not carry the same label."""


def _shaped(call: Any, x: Array) -> Array:
    return x.reshape(shape_of(call))


def _sliced(call: Any, x: Array) -> Array:
    ranges = [range(extent) for extent in x.shape]
    axes, begins, ends = ([int(v) for v in argument.fields] for argument in call.args[1:4])
    strides = [int(v) for v in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
    for axis, *bounds in zip(axes, begins, ends, strides, strict=True):
        ranges[axis] = range(*slice(*bounds).indices(x.shape[axis]))
    result = x[np.ix_(*ranges)]
    if result.shape != shape_of(call):
        raise Uneven("its bounds are read otherwise than NumPy's")
    return result


def pooled_axes(call: Any) -> tuple[int, ...]:
    """The axes along which elements of windows, or all elements, are picked from."""
    if op_name(call) in ("relax.max", "relax.min"):
        rank = len(shape_of(call.args[0]))
        return tuple(int(a) % rank for a in call.attrs.axis) if call.attrs.axis is not None else tuple(range(rank))
    return tuple(i for i, letter in enumerate(str(call.attrs.layout)) if letter in "DHW")


def _one_of_each(call: Any, x: Array) -> Array:
    """``x`` at the first position of the pooled axes, if it is the same at all others."""
    axes = pooled_axes(call)
    first: Array = x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))]
    if not np.array_equal(np.broadcast_to(first, x.shape), x):
        raise Uneven("its windows mix channels")
    return first


def _picked(call: Any, x: Array) -> Array:
    first, shape = _one_of_each(call, x), shape_of(call)
    kept = first if first.ndim == len(shape) else first.reshape(shape)
    return np.broadcast_to(kept, shape)


# What an operator does to labels, which are the same wherever it picks one element of several.
MOVES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "relax.reshape": _shaped,
        "relax.flatten": _shaped,
        "relax.squeeze": _shaped,
        "relax.expand_dims": _shaped,
        "relax.permute_dims": lambda call, x: REARRANGE["relax.permute_dims"](x, call),
        "relax.broadcast_to": lambda call, x: np.broadcast_to(x, shape_of(call)),
        "relax.strided_slice": _sliced,
        "relax.take": lambda call, x: np.take(
            x, constant(call.args[1]), None if call.attrs.axis is None else int(call.attrs.axis)
        ),
        "relax.flip": lambda call, x: np.flip(x, int(call.attrs.axis)),
        "relax.tile": lambda call, x: np.tile(x, [int(v) for v in call.attrs.repeats]),
        "relax.repeat": lambda call, x: np.repeat(
            x, int(call.attrs.repeats), None if call.attrs.axis is None else int(call.attrs.axis)
        ),
        "relax.concat": lambda call, *x: np.concatenate(x, 0 if call.attrs.axis is None else int(call.attrs.axis)),
        "relax.stack": lambda call, *x: np.stack(x, 0 if call.attrs.axis is None else int(call.attrs.axis)),
        "relax.image.resize2d": _picked,
        "relax.nn.max_pool1d": _picked,
        "relax.nn.max_pool2d": _picked,
        "relax.max": _picked,
        "relax.min": _picked,
    }
)
# These give the largest (smallest) of several elements: functions that rise commute with them, and those that fall turn
# one into the other.
EXTREMES = frozenset({"relax.nn.max_pool1d", "relax.nn.max_pool2d", "relax.max", "relax.min"})


def moving_call(call: Any, operands: Sequence[Any]) -> Any:
    """The call with other tensors moved."""
    first = relax.Tuple(list(operands)) if isinstance(call.args[0], relax.Tuple) else operands[0]
    return type(call)(call.op, [first, *call.args[1:]], attrs=call.attrs)


@dataclass(frozen=True, eq=False)
class Move:
    """An operator of `MOVES` as the graph has it, and what it moves: parts, by number, or what others moved."""

    call: Any
    operands: tuple[Move | int, ...]

    def numbered_from(self, first: int) -> Move:
        """The same with part 0 as part ``first``."""
        return Move(
            self.call, tuple(o + first if isinstance(o, int) else o.numbered_from(first) for o in self.operands)
        )

    @property
    def picks(self) -> bool:
        """Whether elements are compared on the way."""
        return op_name(self.call) in EXTREMES or any(isinstance(o, Move) and o.picks for o in self.operands)


@dataclass(frozen=True, eq=False)
class Moved:
    """A tensor that is ``move`` of ``parts``.

    Attributes
    ----------
    parts : tuple of expressions
        Float variables or constants of the new program.
    move : Move
        How they come together.
    falling : tuple of bool arrays
        For each part, broadcastable to it: where a function applied after the move falls, if one was.
    """

    parts: tuple[Any, ...]
    move: Move
    falling: tuple[Array, ...]

    def labels(self, labels: Sequence[Array]) -> Array:
        """Arrays that broadcast to the parts, moved; raises `Uneven` where elements with different labels meet."""
        arrays = [np.broadcast_to(a, shape_of(p)) for a, p in zip(labels, self.parts, strict=True)]
        return _labels(self.move, arrays)

    def applied(self, parts: Sequence[Any], emit: Callable[[Any], Any]) -> Any:
        """The variable of the parts' codes moved; the same codes are moved only once."""
        done: dict[Any, Any] = {}
        falling = [np.broadcast_to(a, shape_of(p)) for a, p in zip(self.falling, self.parts, strict=True)]

        def result(move: Move | int) -> Any:
            if isinstance(move, int):
                return parts[move]
            operands = [result(o) for o in move.operands]
            key = (id(move.call), *operands)
            if key not in done:
                done[key] = _emitted(move, operands, falling, emit)
            return done[key]

        return result(self.move)


def _labels(move: Move | int, arrays: Sequence[Array]) -> Array:
    if isinstance(move, int):
        return arrays[move]
    return MOVES[op_name(move.call)](move.call, *(_labels(o, arrays) for o in move.operands))


def _emitted(move: Move, operands: list[Any], falling: list[Array], emit: Callable[[Any], Any]) -> Any:
    picks = op_name(move.call) in EXTREMES and any(f.any() for f in falling)
    mirrored = _labels(move.operands[0], falling) if picks else np.zeros(())
    if not mirrored.any():
        return emit(moving_call(move.call, operands))
    # 255 - code where the function falls: the largest value has the smallest code there.
    first = (_one_of_each(move.call, mirrored) * 255).astype(np.uint8)
    rank = len(shape_of(move.call))
    last = first if first.ndim == rank else first.reshape(shape_of(move.call))
    before = emit(relax.op.bitwise_xor(operands[0], literal(first)))
    return emit(relax.op.bitwise_xor(emit(moving_call(move.call, [before])), literal(last)))

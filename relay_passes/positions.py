"""``TAKEN``: operators that read elements at constant positions, written as ``take``: pads by what is there, gathers.

Takes move codes as they move values (`integer_forms.moving`), and explanations have a rule for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.ops import constant, literal, op_name, shape_of

Array = npt.NDArray[Any]
# emit(expr, part) binds an expression under the name of a part.
Emit = Callable[[Any, str], Any]

# Modes of ``nn.pad`` by NumPy's names.
_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def taken(call: Any, emit: Emit) -> Any | None:
    """What a row of `TAKEN` computes.

    Parameters
    ----------
    call : expression
        Any call.
    emit : callable
        ``emit(expr, part)`` binds one of its parts.

    Returns
    -------
    expression or None
        Of the call's shape, not bound yet; None where it is no such operator, or its positions are not constant.
    """
    write = TAKEN.get(op_name(call))
    return None if write is None else write(call, emit)


def as_takes(x: Any, at: Array, emit: Emit) -> Any:
    """``x.reshape(-1)[at]`` by one take of what is moved in one piece, for each item of the first axis if it can be.

    Parameters
    ----------
    x : expression
        Of static shape.
    at : int array
        Positions in the flattened x.
    emit : callable
        See `taken`.
    """
    shape = shape_of(x)
    behind = _whole(shape, at)
    size = int(np.prod(shape[len(shape) - behind :]))
    rows = at.reshape(-1, size)[:, 0] // size
    count = int(np.prod(shape)) // size
    lead: list[int] = []
    if behind < min(len(shape), at.ndim) and at.shape[0] == shape[0]:
        each, per = rows.reshape(shape[0], -1), count // shape[0]
        if np.all(each == each[0] + per * np.arange(shape[0])[:, None]) and np.all(each[0] < per):
            lead, rows, count = [shape[0]], each[0], per
    flat = emit(relax.op.reshape(x, relax.ShapeExpr([*lead, count, size])), "rows")
    picked = emit(relax.op.take(flat, literal(rows.astype(np.int64)), axis=len(lead), mode="clip"), "taken")
    return relax.op.reshape(picked, relax.ShapeExpr(list(at.shape)))


def _whole(shape: Sequence[int], at: Array) -> int:
    """How many axes at the end are read whole and in order."""
    found = 0
    for behind in range(1, min(len(shape), at.ndim) + 1):
        size = int(np.prod(shape[len(shape) - behind :]))
        if shape[-behind] != at.shape[-behind]:
            break
        rows = at.reshape(-1, size)
        if np.any(rows[:, 0] % size) or np.any(rows != rows[:, :1] + np.arange(size)):
            break
        found = behind
    return found


def _pad(call: Any, emit: Emit) -> Any | None:
    """An axis after the other."""
    mode, widths = _MODES.get(str(call.attrs.pad_mode)), [int(w) for w in call.attrs.pad_width]
    if mode is None or min(widths) < 0:
        return None
    x, padded = call.args[0], None
    for axis, pair in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        if any(pair):
            x = x if padded is None else emit(padded, "padded")
            places = np.arange(shape_of(x)[axis])
            at: Array = np.pad(places, pair, mode=mode)  # type: ignore[call-overload]  # NumPy wants a literal
            padded = relax.op.take(x, literal(at.astype(np.int64)), axis=axis, mode="clip")
    return x if padded is None else padded


def _gather_nd(call: Any, labels: Array, at: Array) -> Array:
    lead, depth = int(call.attrs.batch_dims), at.shape[-1]
    items: tuple[Array, ...] = np.indices(at.shape[:lead], sparse=True)
    own = [i.reshape(*i.shape, *[1] * (at.ndim - 1 - lead)) for i in items]
    result: Array = labels[(*own, *(at[..., k] for k in range(depth)))]
    return result


def _gather_elements(call: Any, labels: Array, at: Array) -> Array:
    axis = int(call.attrs.axis) % labels.ndim
    own: list[Array] = list(np.indices(at.shape, sparse=True))
    own[axis] = at
    result: Array = labels[tuple(own)]
    return result


def _index_tensor(call: Any, labels: Array, *at: Array) -> Array:
    result: Array = labels[tuple(at)]
    return result


def _gathered(read: Callable[..., Array]) -> Callable[[Any, Emit], Any | None]:
    """What ``read(call, labels, *indices)`` makes of labels, read from the tensor."""

    def write(call: Any, emit: Emit) -> Any | None:
        x, others = call.args[0], call.args[1:]
        indices = [constant(f) for a in others for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
        if any(at is None or at.dtype.kind not in "iu" for at in indices):
            return None
        labels = np.arange(int(np.prod(shape_of(x)))).reshape(shape_of(x))
        try:
            at = read(call, labels, *indices)
        except IndexError:  # beyond the tensor, where what TVM reads is its own
            return None
        return as_takes(x, at, emit) if at.shape == shape_of(call) and at.size else None

    return write


TAKEN: Mapping[str, Callable[[Any, Emit], Any | None]] = {
    "relax.nn.pad": _pad,
    "relax.gather_nd": _gathered(_gather_nd),
    "relax.gather_elements": _gathered(_gather_elements),
    "relax.index_tensor": _gathered(_index_tensor),
}

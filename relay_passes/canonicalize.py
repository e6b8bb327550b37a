"""``Canonicalize``: one spelling of batch norm, of clips and of constants, whatever the front end wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow
from relay_passes.broadcasts import without_broadcast
from relay_passes.casts import without_casts
from relay_passes.clips import simplified
from relay_passes.einsums import multiplied_out
from relay_passes.exponentials import bounded
from relay_passes.norms import centred, written_out
from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.positions import taken
from relay_passes.rearrange import rearranged

# Operators that only rearrange a constant, or flip its sign. Other arithmetic on constants is left alone: it may be a
# weight's quantiser.
REARRANGE: Mapping[str, Callable[[Any, Any], Any]] = {
    "relax.reshape": lambda x, call: x.reshape([int(d) for d in call.ty.shape]),
    "relax.permute_dims": lambda x, call: x.transpose([int(a) for a in call.attrs.axes] if call.attrs.axes else None),
    "relax.expand_dims": lambda x, call: np.expand_dims(x, tuple(int(a) for a in call.attrs.axis)),
    "relax.astype": lambda x, call: x.astype(str(call.attrs.dtype)),
    "relax.squeeze": lambda x, call: x.reshape([int(d) for d in call.ty.shape]),
    "relax.broadcast_to": lambda x, call: np.broadcast_to(x, [int(d) for d in call.ty.shape]),
    "relax.negative": lambda x, call: np.negative(x),
}


# Operators that make a constant from attributes; torch.export leaves scales so.
CREATE: Mapping[str, Callable[[Any], Any]] = {
    "relax.full": lambda call: constant(call.args[1]),
    "relax.zeros": lambda call: 0,
    "relax.ones": lambda call: 1,
}


def _without_scalar_zeros(value: Any, lookup: Any) -> Any:
    """A scalar 0 as a vector: TVM takes ``x * 0`` for 0, NaN and infinity too, and refuses ``x / 0``."""
    if op_name(value) not in ("relax.multiply", "relax.divide") or not shape_of(value):
        return value
    arrays = [constant(a) for a in value.args]
    zeros = [array is not None and array.ndim == 0 and array == 0 for array in arrays]
    pairs = zip(value.args, arrays, zeros, strict=True)
    args = [literal(array.reshape(1)) if zero else argument for argument, array, zero in pairs]
    return type(value)(value.op, args, attrs=value.attrs)


# Each gives a bound value in its one spelling, or as it is; it may ask what a variable is bound to. In this order.
REWRITES: tuple[Callable[[Any, Callable[[Any], Any]], Any], ...] = (
    _without_scalar_zeros,
    rearranged,
    simplified,
    without_casts,
    without_broadcast,
    centred,
    bounded,
)

# Each gives what an operator computes by others, of which it may bind parts, or None.
WRITTEN_OUT: tuple[Callable[[Any, Callable[[Any, str], Any]], Any], ...] = (written_out, multiplied_out, taken)


def canonicalize(mod: Any) -> Any:
    """Apply the pass.

    Batch normalisation (inference) becomes ``x * a + b`` with ``a = gamma / sqrt(var + eps)``, ``b = beta - mean a``,
    both in float32 as ONNX Runtime folds them; in training it stays, as it takes the batch's own statistics.
    Other normalisations and variances are written out (`norms`), einsum as products (`einsums`), what reads constant
    positions as takes (`positions`). Rearranged constants become constants; minimum, maximum and nested clips become
    one clip; entries of a split become slices. Broadcasts that nothing needs go, and so does dead code.
    """

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        name = op_name(value)
        if name == "relax.nn.batch_norm" and not value.attrs.training:
            return _affine(dataflow.name_of(var), value, scope)
        layer = dataflow.name_of(var)
        for write in WRITTEN_OUT:
            whole = write(value, lambda part, of: scope.emit(part, f"{layer}/{of}"))
            if whole is not None:
                return dataflow.bind(whole, layer, scope)
        if name in CREATE and CREATE[name](value) is not None:
            return literal(np.full(shape_of(value), CREATE[name](value), str(value.ty.dtype)))
        if name in REARRANGE and constant(value.args[0]) is not None:
            typed = scope.builder.normalize(value)
            return literal(np.require(REARRANGE[name](constant(value.args[0]), typed), requirements="C"))
        for rewrite in REWRITES:
            value = rewrite(value, scope.builder.lookup_binding)
        return dataflow.keep(var, value, scope)

    return dataflow.rebuild(mod, visit)


def _affine(name: str, call: Any, scope: dataflow.Scope) -> Any:
    arrays = [constant(a) for a in call.args[1:5]]
    if any(a is None for a in arrays):
        return scope.emit(call, name)
    gamma, beta, mean, variance = arrays
    if not call.attrs.scale:
        gamma = np.ones_like(gamma)
    if not call.attrs.center:
        beta = np.zeros_like(beta)
    a = (gamma / np.sqrt(variance + np.float32(call.attrs.epsilon))).astype(np.float32)
    b = (beta - mean * a).astype(np.float32)
    x = call.args[0]
    shape = [1] * len(shape_of(x))
    shape[int(call.attrs.axis)] = -1
    scaled = scope.emit(relax.op.multiply(x, literal(a.reshape(shape))), f"{name}/scale")
    shifted = scope.emit(relax.op.add(scaled, literal(b.reshape(shape))), name)
    return relax.Tuple([shifted, call.args[3], call.args[4]])

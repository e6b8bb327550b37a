"""``FoldPadding``: a Pad by 0 becomes the padding of the convolution that reads it, a quantiser between them or not.

Exporters from TensorFlow and Keras write a Pad before each strided convolution. A convolution pads at no cost; a Pad
would copy the tensor, and write it in float. A quantiser that gives 0.0 for 0.0 changes places with a Pad before it.
Explanations and probes are in the program already: they read what the model computes, borders included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow
from relay_passes.ops import FAKE_QUANT, constant, fake_quant, op_name, quant_spec, shape_of

# Convolutions, with the letters of their layouts that stand for space.
SPACES: Mapping[str, tuple[str, str]] = {"relax.nn.conv1d": ("NCW", "W"), "relax.nn.conv2d": ("NCHW", "HW")}
PAD = "relax.nn.pad"


def fold_padding(mod: Any) -> Any:
    """Apply the pass."""

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        name = dataflow.name_of(var)
        pad = _padded(value, scope.builder.lookup_binding)
        if pad is not None and op_name(value) == FAKE_QUANT and _keeps_zero(value):
            codes = scope.emit(fake_quant(pad.args[0], quant_spec(value)), name)
            padded = relax.op.nn.pad(codes, [int(width) for width in pad.attrs.pad_width])
            return scope.emit(padded, f"{name}/padded")
        if pad is not None and op_name(value) in SPACES:
            value = _with_padding(value, pad)
        return dataflow.bind(value, name, scope)

    return dataflow.rebuild(mod, visit)


def _padded(value: Any, lookup: Any) -> Any | None:
    """The Pad by 0 that an operator's first operand is, if it is one."""
    if op_name(value) not in (FAKE_QUANT, *SPACES) or not isinstance(value.args[0], relax.Var):
        return None
    pad = lookup(value.args[0])
    if pad is None or op_name(pad) != PAD:
        return None
    widths = [int(width) for width in pad.attrs.pad_width]
    by_zero = str(pad.attrs.pad_mode) == "constant" and float(pad.attrs.pad_value) == 0
    return pad if by_zero and min(widths) >= 0 and not any(widths[:4]) else None


def _keeps_zero(value: Any) -> bool:
    """Whether a quantiser of activations gives 0.0 for 0.0, by the same code in every channel."""
    spec = quant_spec(value)
    if constant(value.args[0]) is not None or (spec.axis is not None and spec.axis % len(shape_of(value)) > 1):
        return False
    zeros = np.zeros(shape_of(value)[:2], np.float32)
    return bool(np.all(spec.applied(zeros) == 0)) and np.unique(spec.codes(zeros)).size == 1


def _with_padding(call: Any, pad: Any) -> Any:
    """A convolution that pads by itself; as it is where its layout is unusual."""
    layout, space = SPACES[op_name(call)]
    if str(call.attrs.data_layout) != layout:
        return call
    widths = [int(width) for width in pad.attrs.pad_width][4:]
    before, after = widths[::2], widths[1::2]
    own = [int(p) for p in call.attrs.padding]
    own = own * 2 if len(own) == len(space) else own
    padding = [p + more for p, more in zip(own, [*before, *after], strict=True)]
    operator = relax.op.nn.conv1d if len(space) == 1 else relax.op.nn.conv2d
    a = call.attrs
    return operator(
        pad.args[0],
        call.args[1],
        strides=[int(s) for s in a.strides],
        padding=padding,
        dilation=[int(d) for d in a.dilation],
        groups=int(a.groups),
        data_layout=str(a.data_layout),
        kernel_layout=str(a.kernel_layout),
        out_layout=str(a.out_layout),
    )

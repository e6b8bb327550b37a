"""``Forms``: in which layouts each tensor of codes is there, and what makes one from another when it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes import layouts
from relay_passes.assign import PLAIN, Form
from relay_passes.dataflow import Scope
from relay_passes.integer_forms import ELEMENTWISE
from relay_passes.ops import DEQUANTIZE, QUANTIZE, SCALE_ACCUMULATORS, constant, literal, op_name, shape_of
from schedules.layout import Layout
from schedules.moving import Window, concat_kernel, max_pool_kernel, repack_kernel, take_kernel

# What is computed alike in the order of the graph and in that of pixels.
_ANY_ORDER = ELEMENTWISE | {QUANTIZE, DEQUANTIZE, SCALE_ACCUMULATORS}


class Forms:
    """Physical forms by the logical variable of the program that is being written; each is made once."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.found: dict[Any, dict[Form, Any]] = {}

    def get(self, codes: Any, form: Form, name: str) -> Any:
        """A tensor in a form: as it is, or made from plain codes, and these from the form that was written."""
        forms = self.found.setdefault(codes, {None: codes})
        if form not in forms:
            forms[form] = self._made(codes, forms, form, name)
        return forms[form]

    def produced(self, packed: Any, layout: Layout, shape: tuple[int, ...], name: str, kept: int = 0) -> Any:
        """The logical variable of what a kernel wrote; conversions that nobody reads are dead code.

        Where explanations read it, ``kept`` says in how many bits it is kept for them (`layouts.kept`).
        """
        forms: dict[Form, Any] = {layout: packed}
        plain = packed if layout == PLAIN else self._repacked(packed, shape, layout, PLAIN, f"{name}/plain")
        if kept:
            result = layouts.kept(self.scope, plain, shape, name, kept)
        else:
            result = layouts.unpack(self.scope, plain, shape, name)
        self.found[result] = {None: result, PLAIN: plain, **forms}
        return result

    def _made(self, codes: Any, forms: dict[Form, Any], form: Form, name: str) -> Any:
        if form == PLAIN:
            return layouts.pack(self.scope, codes, f"{name}/packed", fused=self._by_pixel(codes))
        assert form is not None
        plain = self.get(codes, PLAIN, name)
        return self._repacked(plain, shape_of(codes), PLAIN, form, f"{name}/packed")

    def _by_pixel(self, codes: Any) -> bool:
        """Whether codes are computed element by element from nothing but tensors that kernels wrote by pixel."""
        if None in self.found.get(codes, {}) and len(self.found[codes]) > 1:
            return True
        value = self.scope.builder.lookup_binding(codes)
        if op_name(value) not in _ANY_ORDER:
            return False
        # A constant for each element lies in the order of the graph, those for each channel in either.
        most = layouts.nhwc_shape(shape_of(codes))[3]
        rest = [arg for arg in value.args if (array := constant(arg)) is None or array.size > most]
        return bool(rest) and all(isinstance(arg, relax.Var) and self._by_pixel(arg) for arg in rest)

    def _repacked(self, packed: Any, shape: tuple[int, ...], source: Layout, target: Layout, name: str) -> Any:
        extents = layouts.nhwc_shape(shape)
        kernel = repack_kernel(extents, source, target)
        return call_kernel(self.scope, kernel, "repack", [packed], target.shape(*extents), "uint8", name)


def call_kernel(
    scope: Scope, kernel: Any, hint: str, args: list[Any], shape: tuple[int, ...], dtype: str, name: str
) -> Any:
    """Emit the call of a PrimFunc that writes one tensor."""
    clean = "".join(c if c.isalnum() else "_" for c in hint)
    gv = scope.builder.add_func(kernel.without_attr("global_symbol"), clean)
    return scope.emit(relax.call_tir(gv, args, relax.TensorType(list(shape), dtype)), name)


def pooled(forms: Forms, call: Any, source: Layout, target: Layout, name: str) -> Any:
    """Emit ``max_pool2d`` of codes, which are in a layout, into a layout."""
    attrs, shapes = call.attrs, [layouts.nhwc_shape(shape_of(e)) for e in (call.args[0], call)]
    pairs = [(int(v[0]), int(v[1])) for v in (attrs.pool_size, attrs.strides, attrs.dilation)]
    top, left, bottom, right = (int(v) for v in attrs.padding)
    window = Window(pairs[0], pairs[1], (top, left, bottom, right), pairs[2])
    kernel = max_pool_kernel(shapes[0], window, shapes[1], source, target)
    codes = forms.get(call.args[0], source, name)
    packed = call_kernel(
        forms.scope, kernel, "max_pool", [codes], target.shape(*shapes[1]), "uint8", f"{name}/physical"
    )
    return forms.produced(packed, target, shape_of(call), name)


def joined(forms: Forms, call: Any, target: Layout, name: str) -> Any:
    """Emit a concatenation of channels of plain codes into a layout."""
    fields, shape = list(call.args[0].fields), layouts.nhwc_shape(shape_of(call))
    kernel = concat_kernel(shape, [layouts.nhwc_shape(shape_of(field))[3] for field in fields], target)
    args = [forms.get(field, PLAIN, name) for field in fields]
    packed = call_kernel(forms.scope, kernel, "concat", args, target.shape(*shape), "uint8", f"{name}/physical")
    return forms.produced(packed, target, shape_of(call), name)


def taken(forms: Forms, call: Any, target: Layout, name: str) -> Any:
    """Emit rows or columns of plain codes, by constant indices, into a layout."""
    shapes = [layouts.nhwc_shape(shape_of(e)) for e in (call.args[0], call)]
    kernel = take_kernel(shapes[0], int(call.attrs.axis) - 1, shapes[1], target)
    args = [forms.get(call.args[0], PLAIN, name), literal(constant(call.args[1]).astype(np.int32))]
    packed = call_kernel(forms.scope, kernel, "take", args, target.shape(*shapes[1]), "uint8", f"{name}/physical")
    return forms.produced(packed, target, shape_of(call), name)

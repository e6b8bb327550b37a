"""ONNX to Relax, by TVM's own front end with a few converters replaced while it runs."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes import dataflow, notes
from relay_passes.casts import fits, integers
from relay_passes.clips import value_range
from relay_passes.ops import constant, literal, shape_of
from schedules.errors import LowbitError
from tvm_lowbit.from_onnx import failures, moving, norms, products, qdq_checks, sub_byte, type_checks, window_checks
from tvm_lowbit.from_onnx.custom import CUSTOM

# The front end looks converters up in a module-level function; only one import may replace it at a time.
_LOCK = threading.Lock()


def import_onnx(model: onnx.ModelProto, batch: int) -> Any:
    """Relax IRModule of a checked model, symbolic batch sizes replaced by ``batch``.

    Variables carry the names of the ONNX nodes that made them; ``main`` has the attribute ``output_names``.

    Raises
    ------
    LowbitError
        For operators without a converter, or shapes that are not static but for the batch.
    """
    given, model = model, sub_byte.widen(model)
    graph = model.graph
    shapes = {value.name: _static_shape(value, batch) for value in graph.input if value.name not in _stored(graph)}
    _check_operators(graph)
    type_checks.check_types(given)
    at = _Place()
    try:
        with _converters(at) as declined, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            mod = onnx_frontend.from_onnx(model, shape_dict=shapes, sanitize_input_names=False)
    except LowbitError:
        raise
    except Exception as error:  # TVM raises whatever its converters run into
        raise failures.failure(model, at.node, error) from error
    main = mod["main"].with_attr("output_names", [value.name for value in graph.output])
    mod.update_func(mod.get_global_var("main"), main)
    return notes.add(mod, "declined", declined) if declined else mod


def _stored(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


@dataclass
class _Place:
    """Where an import is."""

    node: onnx.NodeProto | None = None


def _check_operators(graph: onnx.GraphProto) -> None:
    standard = {*onnx_frontend._get_convert_map(), "Constant"}
    known: dict[str, Collection[str]] = {"": standard, "ai.onnx": standard}
    for more in CUSTOM:
        for domain in more.DOMAINS:
            known[domain] = {*known.get(domain, ()), *more.CONVERTERS}
    for node in graph.node:
        if node.op_type not in known.get(node.domain, ()):
            raise failures.unknown_operator(node)


def _static_shape(value: onnx.ValueInfoProto, batch: int) -> list[int]:
    kind = value.type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        names = dict(onnx.TensorProto.DataType.items())
        got = next((name for name, number in names.items() if number == kind), f"type {kind}, which ONNX does not have")
        raise LowbitError(f"input {value.name}", "float32", got)
    shape = []
    for i, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value)
        elif i == 0:
            shape.append(batch)
        else:
            label = dim.dim_param or "?"
            raise LowbitError(f"input {value.name}", "a static shape but for the batch", f"dimension {i} is {label}")
    if any(extent < 1 for extent in shape):
        raise LowbitError(f"input {value.name}", "positive dimensions", str(shape))
    return shape


# TVM's front end computes these at once on constants, and with them the quantisers of weights.
_KEPT_APART = {"Div": relax.op.divide, "Add": relax.op.add, "Sub": relax.op.subtract, "Mul": relax.op.multiply}


def _is_float_constant(value: Any) -> bool:
    array = constant(value)
    return array is not None and array.dtype.kind == "f"


def _folded_bias(inputs: Any) -> Any:
    """A constant of int32, dequantised: a bias, which is no operand of a product and needs no quantiser; else None."""
    arrays = [constant(value) for value in inputs[:3] if value is not None]
    if any(a is None for a in arrays) or arrays[0].dtype != np.int32 or arrays[0].ndim > 1:
        return None
    codes, scale, zero = arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else np.int32(0)
    if scale.ndim > 1 or np.broadcast_shapes(scale.shape, codes.shape, np.shape(zero)) != codes.shape:
        return None
    return literal(((codes - zero).astype(np.float32) * scale).astype(np.float32))


class _Clip(onnx_frontend.Clip):  # type: ignore[misc]
    """Constant bounds stay visible as ``relax.clip``; TVM's converter hides them in TIR calls."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        lowest, highest = value_range(str(inputs[0].ty.dtype))
        lo, hi = float(attr.get("min", lowest)), float(attr.get("max", highest))
        return relax.op.clip(inputs[0], min(lo, hi), hi)

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return cls._impl_v13(bb, inputs, attr, params)

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        for which, bound in zip(("minimum", "maximum"), inputs[1:3], strict=False):
            shape = () if bound is None else shape_of(bound)
            if shape not in ((), (1,)):
                raise LowbitError(f"{which} of {attr['tvm_custom']['label']}", "one number", f"shape {shape}")
        # A missing bound is the type's own: an infinity of integers cannot be compiled.
        limits = list(value_range(str(inputs[0].ty.dtype)))
        for i, bound in enumerate((inputs[1], inputs[2])):
            if bound is None:
                continue
            value = constant(onnx_frontend.get_constant(bound, params))
            if value is None or value.size != 1 or np.isnan(value).any():
                return super()._impl_v13(bb, inputs, attr, params)
            limits[i] = float(value.reshape(()))
        # ONNX: where the bounds are in the wrong order, the upper one is the result.
        return relax.op.clip(inputs[0], min(limits), limits[1])


class _Cast(onnx_frontend.Cast):  # type: ignore[misc]
    """Integers cast to a type that holds them: TVM's converter writes the wrapping around of all others too."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        kind = onnx_frontend.get_type(attr["to"])
        known = integers(inputs[0], bb.lookup_binding) if kind.startswith(("int", "uint")) else None
        if known is not None and fits(known, kind):
            return relax.op.astype(inputs[0], kind)
        return super()._impl_v13(bb, inputs, attr, params)


class _Pairwise:
    """With a constant among the operands, one ``minimum`` or ``maximum`` an operand; TVM broadcasts and stacks."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        kinds = {constant(value) is None for value in inputs}
        if len(kinds) == 1:
            return super()._impl_v1(bb, inputs, attr, params)  # type: ignore[misc]
        return cls._impl_dynamic(bb, sorted(inputs, key=lambda value: constant(value) is not None))  # type: ignore[attr-defined]


class _Min(_Pairwise, onnx_frontend.Min):  # type: ignore[misc]
    """A ``Min`` in place of a ``Clip`` stays visible."""


class _Max(_Pairwise, onnx_frontend.Max):  # type: ignore[misc]
    """A ``Max`` in place of a ``Clip`` stays visible."""


_TABLES = (products.CONVERTERS, moving.CONVERTERS, norms.CONVERTERS)
_REPLACED = {
    **{"Cast": _Cast, "Clip": _Clip, "Min": _Min, "Max": _Max},
    **{name: converter for table in _TABLES for name, converter in table.items()},
}


@contextlib.contextmanager
def _converters(at: _Place) -> Iterator[dict[str, str]]:
    """Replace some of TVM's converters, add custom operators, bind each node's result to a variable of its name.

    Gives the reasons of converters that found a quantiser to be none, by its node's name; they write to
    ``attr["tvm_custom"]["declined"]``, and name the node in messages by ``attr["tvm_custom"]["label"]``.
    """
    declined: dict[str, str] = {}
    importer = onnx_frontend.ONNXGraphImporter
    custom = {name: converter for more in CUSTOM for name, converter in more.CONVERTERS.items()}
    original_map, original_convert = onnx_frontend._get_convert_map, importer._convert_operator
    original_parse, original_import = importer._parse_value_proto, importer.from_onnx

    def parse(self: Any, proto: Any) -> Any:
        # Called with each node before it is converted, with inputs and outputs too.
        at.node = proto if isinstance(proto, onnx.NodeProto) else None
        return original_parse(self, proto)

    def whole(self: Any, graph: Any, opset: Any) -> Any:
        with dataflow.closed(self.bb):
            return original_import(self, graph, opset)

    def convert(self: Any, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        attrs["tvm_custom"]["declined"] = declined
        where = attrs["tvm_custom"]["label"] = failures.label(at.node) if at.node is not None else op_name
        name = attrs["tvm_custom"]["name"] or op_name
        if op_name in _KEPT_APART and all(_is_float_constant(value) for value in inputs):
            result = _KEPT_APART[op_name](*inputs)
        else:
            if op_name in qdq_checks.OPERATORS:
                qdq_checks.check_linear(where, inputs, attrs.get("axis", 1))
            if op_name == "DequantizeLinear" and (folded := _folded_bias(inputs)) is not None:
                return folded
            if op_name in window_checks.OPERATORS:
                shapes = [None if value is None else shape_of(value) for value in inputs]
                window_checks.check_window(where, op_name, shapes, attrs)
            result = original_convert(self, op_name, inputs, attrs, opset)
        if isinstance(result, relax.Tuple) and attrs["tvm_custom"]["num_outputs"] == 1:
            return relax.Tuple([self.bb.emit(result.fields[0], name_hint=dataflow.hint(name)), *result.fields[1:]])
        if isinstance(result, tvm.ir.Call | relax.Var):
            return self.bb.emit(result, name_hint=dataflow.hint(name))
        return result

    with _LOCK:
        onnx_frontend._get_convert_map = lambda: {**original_map(), **_REPLACED, **custom}
        importer._convert_operator, importer._parse_value_proto, importer.from_onnx = convert, parse, whole
        try:
            yield declined
        finally:
            onnx_frontend._get_convert_map = original_map
            importer._convert_operator = original_convert
            importer._parse_value_proto, importer.from_onnx = original_parse, original_import

"""ONNX to Relax, by TVM's own front end with a few converters replaced while it runs."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes import dataflow, notes
from relay_passes.ops import constant
from schedules.errors import LowbitError
from tvm_lowbit import moving_import, products_import, qdq_checks, sub_byte
from tvm_lowbit.onnx_custom import CUSTOM

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
    model = sub_byte.widen(model)
    graph = model.graph
    shapes = {value.name: _static_shape(value, batch) for value in graph.input if value.name not in _stored(graph)}
    _check_operators(graph)
    try:
        with _converters() as declined, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            mod = onnx_frontend.from_onnx(model, shape_dict=shapes, sanitize_input_names=False)
    except LowbitError:
        raise
    except Exception as error:  # TVM raises whatever its converters run into
        raise LowbitError("ONNX import", "operators that TVM's front end converts", _first_line(error)) from error
    main = mod["main"].with_attr("output_names", [value.name for value in graph.output])
    mod.update_func(mod.get_global_var("main"), main)
    return notes.add(mod, "declined", declined) if declined else mod


def _stored(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip()


def _check_operators(graph: onnx.GraphProto) -> None:
    standard = {*onnx_frontend._get_convert_map(), "Constant"}
    known: dict[str, Collection[str]] = {"": standard, "ai.onnx": standard}
    for more in CUSTOM:
        for domain in more.DOMAINS:
            known[domain] = {*known.get(domain, ()), *more.CONVERTERS}
    for node in graph.node:
        if node.op_type not in known.get(node.domain, ()):
            label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise LowbitError(
                f"node {node.name or '(unnamed)'}",
                "an operator that can be imported",
                label,
                "see `tvm-lowbit inspect --help`",
            )


def _static_shape(value: onnx.ValueInfoProto, batch: int) -> list[int]:
    kind = value.type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise LowbitError(f"input {value.name}", "float32", onnx.TensorProto.DataType.Name(kind))
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


class _Clip(onnx_frontend.Clip):  # type: ignore[misc]
    """Constant bounds stay visible as ``relax.clip``; TVM's converter hides them in TIR calls."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return relax.op.clip(inputs[0], float(attr.get("min", -np.inf)), float(attr.get("max", np.inf)))

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return cls._impl_v13(bb, inputs, attr, params)

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        limits = [-np.inf, np.inf]
        for i, bound in enumerate((inputs[1], inputs[2])):
            if bound is None:
                continue
            value = constant(onnx_frontend.get_constant(bound, params))
            if value is None or value.size != 1 or np.isnan(value).any():
                return super()._impl_v13(bb, inputs, attr, params)
            limits[i] = float(value.reshape(()))
        return relax.op.clip(inputs[0], *limits)


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


_REPLACED = {"Clip": _Clip, "Min": _Min, "Max": _Max, **products_import.CONVERTERS, **moving_import.CONVERTERS}


@contextlib.contextmanager
def _converters() -> Iterator[dict[str, str]]:
    """Replace some of TVM's converters, add custom operators, bind each node's result to a variable of its name.

    Gives the reasons of converters that found a quantiser to be none, by its node's name; they write to
    ``attr["tvm_custom"]["declined"]``.
    """
    declined: dict[str, str] = {}
    importer = onnx_frontend.ONNXGraphImporter
    custom = {name: converter for more in CUSTOM for name, converter in more.CONVERTERS.items()}
    original_map, original_convert = onnx_frontend._get_convert_map, importer._convert_operator

    def convert(self: Any, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        attrs["tvm_custom"]["declined"] = declined
        name = attrs["tvm_custom"]["name"] or op_name
        if op_name in _KEPT_APART and all(_is_float_constant(value) for value in inputs):
            result = _KEPT_APART[op_name](*inputs)
        else:
            try:
                if op_name in qdq_checks.OPERATORS:
                    qdq_checks.check_linear(f"node {name}", inputs, attrs.get("axis", 1))
                result = original_convert(self, op_name, inputs, attrs, opset)
            except LowbitError:
                raise
            except Exception as error:  # TVM raises whatever its converters run into
                expected = "what TVM's front end converts"
                raise LowbitError(f"node {name} ({op_name})", expected, _first_line(error)) from error
        if isinstance(result, relax.Tuple) and attrs["tvm_custom"]["num_outputs"] == 1:
            return relax.Tuple([self.bb.emit(result.fields[0], name_hint=dataflow.hint(name)), *result.fields[1:]])
        if isinstance(result, tvm.ir.Call | relax.Var):
            return self.bb.emit(result, name_hint=dataflow.hint(name))
        return result

    with _LOCK:
        onnx_frontend._get_convert_map = lambda: {**original_map(), **_REPLACED, **custom}
        importer._convert_operator = convert
        try:
            yield declined
        finally:
            onnx_frontend._get_convert_map = original_map
            importer._convert_operator = original_convert

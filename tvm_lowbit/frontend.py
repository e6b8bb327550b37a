"""Any model a user may hold, as a Relax IRModule whose ``main`` is one straight line of bindings."""

from __future__ import annotations

import os
from collections import Counter
from numbers import Integral
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from relay_passes import dataflow
from relay_passes.ops import op_name
from schedules.errors import LowbitError
from tvm_lowbit.from_onnx.graph import import_onnx
from tvm_lowbit.from_onnx.read import checked, read_onnx
from tvm_lowbit.from_torch.export import export_module, import_torch


def import_model(model: Any, example_inputs: tuple[Any, ...] | None = None, batch: int = 1) -> Any:
    """Import a model.

    Parameters
    ----------
    model : path, onnx.ModelProto, torch.export.ExportedProgram, torch.nn.Module or tvm.IRModule
        An IRModule needs a Relax function ``main``.
    example_inputs : tuple of tensors, optional
        What a ``torch.nn.Module`` is traced with.
    batch : int
        Stands for symbolic first dimensions.

    Returns
    -------
    IRModule
        With a static ``main``; its attribute ``output_names`` names what it returns.

    Raises
    ------
    LowbitError
        If the model cannot be read or holds something that cannot be imported.
    """
    if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
        raise LowbitError("batch", "a whole number, at least 1", repr(batch))
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if isinstance(model, str | os.PathLike):
        mod = import_onnx(read_onnx(Path(model)), batch)
    elif kind.startswith("onnx.") and kind.endswith(".ModelProto"):
        mod = import_onnx(checked(model, "ModelProto"), batch)
    elif isinstance(model, tvm.IRModule):
        mod = _checked_relax(model)
    elif any(base.__module__ == "torch.export.exported_program" for base in type(model).__mro__):
        mod = import_torch(model)
    elif any(f"{base.__module__}.{base.__name__}" == "torch.nn.modules.module.Module" for base in type(model).__mro__):
        mod = import_torch(export_module(model, example_inputs))
    else:
        expected = "an ONNX path or ModelProto, torch ExportedProgram or Module, or a Relax IRModule"
        raise LowbitError("model", expected, kind)
    return name_layers(_servable(_normalized(mod, batch)))


def _checked_relax(mod: Any) -> Any:
    names = [gv.name_hint for gv in mod.functions]
    if "main" not in names or not isinstance(mod["main"], relax.Function):
        raise LowbitError("IRModule", "a Relax function main", ", ".join(names) or "no function")
    return mod


def _normalized(mod: Any, batch: int) -> Any:
    """Static batch, one dataflow block, output names."""
    symbols = {str(v.name): v for v in relax.analysis.free_symbolic_vars(mod["main"])} | {
        str(v.name): v for v in relax.analysis.defined_symbolic_vars(mod["main"])
    }
    for name in symbols:
        first = [p.ty.shape[0] for p in mod["main"].params if len(p.ty.shape)]
        if not any(isinstance(d, tvm.ir.Expr) and str(getattr(d, "name", "")) == name for d in first):
            raise LowbitError("model", "static shapes but for the batch", f"symbolic dimension {name}")
    if symbols:
        mod = relax.transform.BindSymbolicVars(dict.fromkeys(symbols, batch))(mod)
    mod = relax.transform.DeadCodeElimination(["main"])(relax.transform.Normalize()(mod))
    for param in mod["main"].params:
        if not isinstance(param.ty, relax.TensorType) or param.ty.shape is None:
            raise LowbitError(f"input {param.name}", "a tensor of known shape", str(param.ty))
    for binding in dataflow.bindings(mod["main"]):
        for ty in getattr(binding.var.ty, "fields", [binding.var.ty]):
            extents = getattr(getattr(ty, "shape", None), "values", None) or []
            if any(int(d) < 1 for d in extents if isinstance(d, tvm.tirx.IntImm)):
                sizes = f"({', '.join(map(str, extents))})"
                raise LowbitError(f"node {dataflow.name_of(binding.var)}", "a result of positive sizes", sizes)
    attrs = mod["main"].attrs
    if not attrs or "output_names" not in attrs:
        result = mod["main"].ret_ty
        count = len(result.fields) if isinstance(result, relax.TupleType) else 1
        names = ["output"] if count == 1 else [f"output{i}" for i in range(count)]
        mod.update_func(mod.get_global_var("main"), mod["main"].with_attr("output_names", names))
    return mod


def _servable(mod: Any) -> Any:
    """The module, if its inputs and outputs are what a library takes and gives: float32, the batch first."""
    main = mod["main"]
    for param in main.params:
        if str(param.ty.dtype) != "float32":
            raise LowbitError(f"input {param.name}", "float32", str(param.ty.dtype))
    shapes = [tuple(int(d) for d in param.ty.shape) for param in main.params]
    if not shapes:
        raise LowbitError("inputs", "at least one", "none", "does the model compute anything from an input?")
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise LowbitError("inputs", "one batch size, first in every shape", ", ".join(map(str, shapes)))
    results = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    names = list(main.attrs["output_names"])
    if len(names) != len(results):
        raise LowbitError("outputs", f"{len(names)} tensors", f"{len(results)}: one of them is a sequence")
    for name, ty in zip(names, results, strict=True):
        if not isinstance(ty, relax.TensorType) or ty.shape is None:
            raise LowbitError(f"output {name}", "a tensor of known shape", _kind(ty))
        if not len(ty.shape):
            raise LowbitError(f"output {name}", "a tensor whose first dimension is the batch", "a single number")
    return mod


def _kind(ty: Any) -> str:
    return "a sequence" if isinstance(ty, relax.TupleType) else type(ty).__name__.removesuffix("Type").lower()


# Operators that are what a layer is about; a bias or a scale beside them is not.
PRODUCTS = frozenset({"conv1d", "conv2d", "conv3d", "conv2d_transpose", "matmul"})


def name_layers(mod: Any) -> Any:
    """Name every variable that a front end left without a telling name (lv, gv).

    A value that one other reads is part of that one's layer (the matmul of a Gemm); others take their operator's name.
    Of a layer's operators the one product has the layer's name, or the last where there is not one.
    """
    bound = [binding for binding in dataflow.bindings(mod["main"]) if not isinstance(binding.value, relax.Var)]
    readers = dataflow.readers(mod["main"])
    counts: Counter[str] = Counter()
    operators: dict[Any, str] = {}
    names: dict[Any, str] = {}
    for binding in bound:
        operator = operators[binding.var] = (op_name(binding.value) or "value").split(".")[-1]
        anonymous = _is_anonymous(dataflow.name_of(binding.var))
        counts[operator] += anonymous
        names[binding.var] = f"{operator}_{counts[operator]}" if anonymous else dataflow.name_of(binding.var)
    owners: dict[Any, Any] = {}  # the last variable of each one's layer
    members: dict[Any, list[Any]] = {}
    for binding in reversed(bound):
        var, reader = binding.var, readers.get(binding.var, [])
        owners[var] = var
        if _is_anonymous(dataflow.name_of(var)) and len(reader) == 1 and reader[0] in owners:
            owner = owners[reader[0]]
            if not _is_anonymous(dataflow.name_of(owner)):
                owners[var] = owner
        members.setdefault(owners[var], []).append(var)
    for last, parts in members.items():
        layer = names[last]
        products = [var for var in parts if operators[var] in PRODUCTS]
        chief = products[0] if len(products) == 1 else last
        for var in parts:
            names[var] = layer if var is chief else f"{layer}/{operators[var]}"

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        return dataflow.bind(value, names.get(var, ""), scope)

    return dataflow.rebuild(mod, visit)


def _is_anonymous(name: str) -> bool:
    return name.rstrip("0123456789") in ("lv", "gv", "")

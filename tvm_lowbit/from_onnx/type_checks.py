"""Whether nodes get tensors of types that their operators take; neither ONNX's checker nor TVM's front end asks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, defs

from schedules.errors import LowbitError
from tvm_lowbit.from_onnx.failures import label

Types = dict[str, str]


def check_types(model: onnx.ModelProto) -> None:
    """Walk the nodes of ONNX's own operators; a tensor whose type is not known is not looked at.

    Raises
    ------
    LowbitError
        If a node's input has a type that its operator does not take, or another one than an input of the same kind, or
        an output has another type than declared.
    """
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    types: Types = dict(_given(model.graph))
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain or "" not in versions:
            continue
        try:
            schema = defs.get_schema(node.op_type, versions[""])
        except defs.SchemaError:  # refused where operators are looked up
            continue
        bound = _check_node(node, schema, types)
        for i, name in enumerate(node.output):
            made = _made(node, schema, bound, types, i)
            if made:
                types[name] = made
    for output in model.graph.output:
        declared = _name(output.type.tensor_type.elem_type)
        if declared and types.get(output.name, declared) != declared:
            raise LowbitError(f"output {output.name}", f"{_plain(declared)}, as declared", _plain(types[output.name]))


def _given(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for value in graph.input:
        if value.type.HasField("tensor_type"):
            yield value.name, _name(value.type.tensor_type.elem_type)
    for tensor in graph.initializer:
        yield tensor.name, _name(tensor.data_type)


def _name(kind: int) -> str:
    try:
        return f"tensor({TensorProto.DataType.Name(kind).lower()})" if kind else ""
    except ValueError:
        return ""


def _formal(formals: list[defs.OpSchema.FormalParameter], i: int) -> defs.OpSchema.FormalParameter | None:
    """The parameter that an input or output stands for; the last one may stand for many."""
    if i < len(formals):
        return formals[i]
    variadic = defs.OpSchema.FormalParameterOption.Variadic
    return formals[-1] if formals and formals[-1].option == variadic else None


def _check_node(node: onnx.NodeProto, schema: defs.OpSchema, types: Types) -> Types:
    """What the operator's type parameters stand for."""
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    bound: Types = {}
    formals = list(schema.inputs)
    for i, name in enumerate(node.input):
        kind, formal = types.get(name, ""), _formal(formals, i)
        if not kind or formal is None:
            continue
        where = f"input {name} of {label(node)}"
        takes = allowed.get(formal.type_str, [formal.type_str])
        if kind not in takes:
            plain = [_plain(each) for each in takes if each.startswith("tensor(")]
            raise LowbitError(where, f"{' or '.join(plain)} for {node.op_type}", _plain(kind))
        same = bound.setdefault(formal.type_str, kind)
        if formal.is_homogeneous and same != kind and formal.type_str in allowed:
            raise LowbitError(where, f"{_plain(same)}, as {node.op_type}'s other inputs", _plain(kind))
    return bound


def _plain(kind: str) -> str:
    return kind.removeprefix("tensor(").removesuffix(")")


def _made(node: onnx.NodeProto, schema: defs.OpSchema, bound: Types, types: Types, i: int) -> str:
    """The type of a result; empty where it is not known."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Cast":
        return _name(attributes["to"].i)
    if node.op_type == "Constant":
        return _name(attributes["value"].t.data_type) if "value" in attributes else ""
    if node.op_type == "QuantizeLinear":
        if len(node.input) > 2 and node.input[2]:
            return types.get(node.input[2], "")
        chosen = attributes["output_dtype"].i if "output_dtype" in attributes else 0
        return _name(chosen or TensorProto.UINT8)
    formal = _formal(list(schema.outputs), i)
    if formal is None or not formal.is_homogeneous:
        return ""
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    only = allowed.get(formal.type_str, [formal.type_str])
    return only[0] if len(only) == 1 else bound.get(formal.type_str, "")

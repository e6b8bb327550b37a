"""ONNX files and models, read and checked before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper

from schedules.errors import LowbitError
from tvm_lowbit.from_onnx.custom import CUSTOM

# Protobuf's limit, for files and for models in memory.
MAX_BYTES = 2**31 - 1
SPLIT = "is the file truncated, or another format?"


def read_onnx(path: Path) -> onnx.ModelProto:
    """Load and check an ONNX file.

    Sizes are looked at before any bytes are.

    Raises
    ------
    LowbitError
        If the file or data that it refers to is missing, truncated or larger than 2 GiB, or is no valid ONNX model.
    """
    where = str(path)
    if not path.is_file():
        raise LowbitError(where, "an ONNX file", "nothing there" if not path.exists() else "a folder")
    _check_size(where, path.stat().st_size, "store the weights as external data, or compile parts of the network")
    try:
        model = onnx.load(where, load_external_data=False)
    except Exception as error:  # protobuf and onnx raise many types for malformed bytes
        raise LowbitError(where, "an ONNX model", f"bytes that do not parse ({error})", SPLIT) from error
    _load_external(model, path)
    return checked(model, where)


def _check_size(where: str, size: int, hint: str) -> None:
    if size > MAX_BYTES:
        raise LowbitError(where, "at most 2 GiB, which is protobuf's limit", f"{size / 2**30:.1f} GiB", hint)


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (t for t in external_data_helper._get_all_tensors(model) if external_data_helper.uses_external_data(t))


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Take in tensors from other files, all of which must be there and be as long as they should."""
    total = path.stat().st_size
    for tensor in _external(model):
        where = f"external data of tensor {tensor.name}"
        try:
            entry = external_data_helper.ExternalDataInfo(tensor)
            offset, length = int(entry.offset or 0), entry.length
        except (TypeError, ValueError) as error:
            raise LowbitError(where, "a location, an offset and a length", str(error)) from error
        beside = path.parent / entry.location if entry.location else None
        if beside is None or not beside.is_file():
            got = f"nothing at {entry.location!r}"
            raise LowbitError(where, f"a file beside {path.name}", got, "copy the model with all its files")
        held = beside.stat().st_size
        size = held - offset if length is None else int(length)
        if offset < 0 or size < 0 or offset + size > held:
            got = f"bytes {offset} to {offset + size} of {held}"
            raise LowbitError(where, f"bytes that {entry.location} holds", got, "is that file truncated?")
        total += size
    _check_size(str(path), total, "TVM's front end takes models with all their weights in memory; split the network")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # the checker's ValidationError for places outside the folder, and what files raise
        raise LowbitError(str(path), "external data beside it", _first(error)) from error


def checked(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model, if it is well formed; else a `LowbitError`."""
    graph = model.graph
    if not graph.node:
        raise LowbitError(where, "an ONNX model", "a graph without nodes", SPLIT)
    if not graph.output:
        raise LowbitError(where, "a graph with outputs", "none", "name the results when exporting")
    for tensor in _external(model):
        got = "external data that is not loaded"
        raise LowbitError(
            f"tensor {tensor.name}", "values in the model", got, "pass the path instead of the ModelProto"
        )
    _check_versions(model, where)
    _check_wires(graph)
    try:
        model = _declared(model)
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's ValidationError, and others for malformed attributes
        raise LowbitError(where, "a valid ONNX model", _first(error)) from error
    return model


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_versions(model: onnx.ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    hint = f"export with opset {newest} or older, or install a newer onnx"
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise LowbitError(where, f"an IR version from 1 to {onnx.IR_VERSION}", str(model.ir_version), hint)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise LowbitError(where, f"an opset from 1 to {newest}", str(opset.version), hint)


def _check_wires(graph: onnx.GraphProto) -> None:
    """Every node reads what was made before it, and nothing is made twice."""
    for what, named in (("input", graph.input), ("tensor", graph.initializer)):
        for name, count in Counter(entry.name for entry in named).items():
            if count > 1:
                raise LowbitError(f"{what} {name}", "a name of its own", f"{count} of this name")
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    makers = {output: node for node in graph.node for output in node.output if output}
    for node in graph.node:
        name = f"node {node.name or next(iter(node.output), '(unnamed)')}"
        for source in node.input:
            if source and source not in made and source not in makers:
                raise LowbitError(f"{name} ({node.op_type})", "inputs that something makes", f"{source!r}")
            if source and source not in made and _reaches(graph, node, source):
                got = f"a cycle through {source!r}, which is made from this node's result"
                raise LowbitError(f"{name} ({node.op_type})", "a graph without cycles", got)
            if source and source not in made:
                hint = "nodes must stand in the order of execution"
                got = f"{source!r}, which is made behind it"
                raise LowbitError(f"{name} ({node.op_type})", "inputs that nodes before it make", got, hint)
        for output in node.output:
            if output and output in made:
                raise LowbitError(f"{name} ({node.op_type})", "results of new names", f"{output!r}, which is taken")
            made.add(output)


def _reaches(graph: onnx.GraphProto, start: onnx.NodeProto, tensor: str) -> bool:
    """Whether a tensor depends on a node's results: then the graph has a cycle."""
    makers = {output: node for node in graph.node for output in node.output}
    seen, waiting = {tensor}, [tensor]
    while waiting:
        node = makers.get(waiting.pop())
        if node is start:
            return True
        fresh = [name for name in (node.input if node is not None else ()) if name not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def _declared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the custom domains it uses declared: older exporters leave that out, and the checker insists."""
    used = {node.domain for node in model.graph.node} & frozenset().union(*(more.DOMAINS for more in CUSTOM))
    missing = used - {opset.domain for opset in model.opset_import}
    if not missing:
        return model
    declared = onnx.ModelProto()
    declared.CopyFrom(model)
    declared.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(missing))
    return declared

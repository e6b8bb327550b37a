"""The graph of an exported program to Relax, by TVM's converters and ours; layers keep the names of their modules."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from relay_passes import dataflow
from relay_passes.ops import constant, literal
from schedules.errors import LowbitError
from tvm_lowbit.from_torch import moving, operators, pairs, quantisers
from tvm_lowbit.from_torch.constants import MULTIPLYING, ConstantNodes, operator_name, stored_tensors

_TABLES = (operators, moving, quantisers, pairs)
_CONVERTERS = {name: convert for table in _TABLES for name, convert in table.CONVERTERS.items()}


def _let_loaded_programs_decompose(program: Any) -> None:
    """The tensors of a program from a file refuse operators without a meta kernel, as ``fake_quantize_*`` are."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            mode.allow_fallback_kernels = True


class Importer(ExportedProgramImporter):  # type: ignore[misc]
    """Imports one exported program.

    Attributes
    ----------
    env : dict
        What each node has become: a Relax expression, a number, or a tuple of them.
    constants : ConstantNodes
        Nodes that depend on no input.
    quantised, dequantised : dict
        What each integer tensor that a quantising operator made is made of, and its float value, if one was asked for;
        see `pairs`.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        _let_loaded_programs_decompose(program)
        try:
            self.program = program.run_decompositions(_decompositions())
        except Exception as error:  # torch raises many types here
            raise LowbitError(
                "torch import", "a program that torch can decompose", str(error).strip().split("\n")[0]
            ) from error
        self.nodes = list(self.program.graph.nodes)
        self.labels = _labels(self.nodes)
        self.constants = ConstantNodes(self.program.graph, stored_tensors(self.program))
        self.quantised: dict[Any, Any] = {}
        self.dequantised: dict[Any, Any] = {}

    def module(self) -> Any:
        """The IRModule of the program.

        Raises
        ------
        LowbitError
            For an operator that cannot be imported; it names the layer.
        """
        self._check_operators()
        try:
            _, inputs, ranges = self.create_input_vars(self.program)
        except ValueError as error:
            raise LowbitError("torch import", "tensors as inputs", str(error)) from error
        bounds = {
            "tir_var_lower_bound": {name: low for name, (low, _) in ranges.items()},
            "tir_var_upper_bound": {name: high for name, (_, high) in ranges.items() if high is not None},
        }
        attrs = {name: values for name, values in bounds.items() if values}
        self.block_builder = relax.BlockBuilder()
        names: dict[Any, str] = {}
        with (
            dataflow.closed(self.block_builder),
            self.block_builder.function("main", list(inputs.values()), attrs=attrs),
        ):
            with self.block_builder.dataflow():
                for node in self.nodes:
                    if node.op == "placeholder" and node.name in inputs:
                        self.env[node] = inputs[node.name]
                    elif node.op in ("placeholder", "call_function"):
                        self._convert(node)
                        for var in _variables(self.env.get(node)):
                            names.setdefault(var, self.labels.get(node, node.name))
                output = self.block_builder.emit_output(self._outputs())
            self.block_builder.emit_func_output(output)
        for param in inputs.values():
            names.pop(param, None)

        def renamed(var: Any, value: Any, scope: dataflow.Scope) -> Any:
            return dataflow.bind(value, names.get(var, dataflow.name_of(var)), scope)

        return dataflow.rebuild(self.block_builder.get(), renamed)

    def _check_operators(self) -> None:
        for node in self.nodes:
            if node.op == "get_attr":
                raise LowbitError(self.where(node), "a graph without control flow", str(node.target))
            if node.op != "call_function" or self.constants.folded(node):
                continue
            if node.target.__name__ not in self.convert_map and node.target.__name__ not in _CONVERTERS:
                hint = "write it with other operators, or export the model to ONNX"
                raise LowbitError(self.where(node), "an operator that can be imported", str(node.target), hint)

    def _convert(self, node: fx.Node) -> None:
        if self.constants.folded(node):
            if any(not self.constants.folded(user) for user in node.users):
                self.env[node] = _relax_constant(self.constants.value(node))
            return
        name = node.target.__name__
        try:
            if name in _CONVERTERS:
                self.env[node] = _CONVERTERS[name](node, self)
            else:
                self.env[node] = self.convert_map[name](node)
        except LowbitError:
            raise
        except Exception as error:  # TVM raises whatever its converters run into
            lines = str(error).strip().split("\n")
            got = f"{node.target}: {lines[-1] or type(error).__name__}"
            raise LowbitError(self.where(node), "an operator that can be imported", got) from error

    def _outputs(self) -> Any:
        signature = self.program.graph_signature
        wanted = set(signature.user_outputs)
        (results,) = next(node.args for node in self.nodes if node.op == "output")
        chosen = [node for node in results if isinstance(node, fx.Node) and node.name in wanted]
        if len(chosen) != len(signature.user_outputs):
            raise LowbitError("torch import", "tensors as outputs", str(signature.user_outputs))
        values = [self.env[node] for node in chosen]
        values = [self.block_builder.emit(v) if constant(v) is not None else v for v in values]
        return values[0] if len(values) == 1 else relax.Tuple(values)

    def where(self, node: fx.Node) -> str:
        """A node as error messages name it."""
        return f"node {self.labels.get(node, node.name)}"

    def emit(self, expr: Any) -> Any:
        """Bind an expression."""
        return self.block_builder.emit(expr)


def _decompositions() -> Any:
    """Torch's own, without torchao's quantisers: taken apart, their integer tensors stand in between."""
    table = torch.export.default_decompositions()
    for name in ("quantize_affine", "dequantize_affine", "choose_qparams_affine"):
        operator = getattr(torch.ops.torchao, name, None)
        if operator is not None:
            table.pop(operator.default, None)
    return table


def _relax_constant(value: Any) -> Any:
    """Tensors as Relax constants, inside tuples as well; numbers as they are."""
    if isinstance(value, torch.Tensor):
        return literal(value.detach().cpu().contiguous().numpy())
    return tuple(_relax_constant(v) for v in value) if isinstance(value, tuple | list) else value


def _variables(value: Any) -> list[Any]:
    if isinstance(value, relax.Var):
        return [value]
    return [var for entry in value for var in _variables(entry)] if isinstance(value, tuple | list) else []


def _module_path(node: fx.Node) -> str:
    """The dotted path of the module that a node comes from; empty at the root."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path, kind = next(reversed(stack.values()))
    path = ".".join(re.findall(r"\w+", re.sub(r"^L\['self'\]|_modules|_parameters", "", path)))
    # A bare number (a Sequential at the root) would pass for no name at all.
    return f"{str(getattr(kind, '__name__', kind)).split('.')[-1]}_{path}" if path.isdecimal() else path


def _labels(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """A name for each node: its module's where it is the module's only node or only multiplying one."""
    calls = [n for n in nodes if n.op == "call_function" and operator_name(n) != "getitem"]
    paths = {n: _module_path(n) for n in calls}
    all_of = Counter(paths.values())
    multiplying = Counter(path for n, path in paths.items() if operator_name(n) in MULTIPLYING)
    labels: dict[fx.Node, str] = {}
    for node, path in paths.items():
        alone = all_of[path] == 1 or (operator_name(node) in MULTIPLYING and multiplying[path] == 1)
        labels[node] = path if path and alone else f"{path}/{node.name}" if path else node.name
    for node in nodes:
        if node.op == "call_function" and operator_name(node) == "getitem":
            labels[node] = labels.get(node.args[0], node.name)
    return labels

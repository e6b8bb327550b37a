"""What an exported program computes from its parameters alone: torch computes it, but quantisers of weights stay.

Scales are often computed in the graph (mean magnitudes, gradient scaling of LSQ, Brevitas' restrictions, tanh of
DoReFa's weights); torch's own result is the exact one. The quantiser of a weight itself is kept as operators as far as
they are exact in any library, so that its bits are read from its clips, not from the values.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

# Layers whose constant operands of two and more dimensions are weights.
MULTIPLYING = frozenset(
    {
        "convolution",
        "conv1d",
        "conv2d",
        "conv_transpose1d",
        "conv_transpose2d",
        "addmm",
        "mm",
        "bmm",
        "baddbmm",
        "matmul",
        "linear",
    }
)
# Operators where a weight's quantiser starts: what they read is computed, so that it is a constant to all who look.
STARTS = frozenset(
    {
        *("sign", "gt", "ge", "lt", "le"),
        "fake_quantize_per_tensor_affine",
        "fake_quantize_per_tensor_affine_cachemask",
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "fake_quantize_per_channel_affine",
        "fake_quantize_per_channel_affine_cachemask",
        "_fake_quantize_learnable_per_tensor_affine",
        "_fake_quantize_learnable_per_channel_affine",
        "_fused_moving_avg_obs_fq_helper_functional",
        "fused_moving_avg_obs_fake_quant",
        *("quantize_per_tensor", "quantize_per_channel", "quantize_affine"),
    }
)
# Operators that give the same bits everywhere, of which weights' quantisers are made.
EXACT = STARTS | {
    *("add", "sub", "mul", "div", "neg", "abs", "round", "floor", "ceil", "relu"),
    *("clamp", "clamp_min", "clamp_max", "hardtanh", "minimum", "maximum", "where"),
    *("view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice"),
    *("clone", "alias", "detach", "contiguous", "_to_copy", "getitem"),
    *("dequantize_per_tensor", "dequantize_per_channel", "dequantize_affine"),
}
# Values of at most this many elements are kept for the next who asks.
SMALL = 4096


def operator_name(node: fx.Node) -> str:
    """The operator of a node without namespace and overload."""
    return str(node.target.__name__).split(".")[0]


def is_blocked(node: fx.Node) -> bool:
    """Whether a torchao operator has a scale for each block, not for the tensor or each index along one axis."""
    if operator_name(node) not in ("quantize_affine", "dequantize_affine"):
        return False
    shape = node.args[0].meta["val"].shape
    split = [(int(b), int(d)) for b, d in zip(node.args[1], shape, strict=True) if int(b) != int(d)]
    return len(split) > 1 or any(block != 1 for block, _ in split)


def stored_tensors(program: Any) -> dict[str, Any]:
    """Parameters, buffers and constants of an exported program by the names of their placeholders."""
    signature = program.graph_signature
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    state = program.state_dict
    return {name: state[at] if at in state else program.constants[at] for name, at in targets.items()}


class ConstantNodes:
    """Nodes of a graph that depend on no input.

    Attributes
    ----------
    kept : set of nodes
        Those that stay operators: the quantisers of weights.
    """

    def __init__(self, graph: fx.Graph, stored: dict[str, Any]) -> None:
        self._values: dict[fx.Node, Any] = {}
        self._constant: set[fx.Node] = set()
        self.kept: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in stored:
                self._values[node] = stored[node.name].detach()
                self._constant.add(node)
            elif node.op == "call_function" and _is_pure(node) and self._constant.issuperset(node.all_input_nodes):
                self._constant.add(node)
        for node in graph.nodes:
            if node.op == "call_function" and operator_name(node) in MULTIPLYING and node not in self._constant:
                for argument in node.all_input_nodes:
                    if argument in self._constant and _size(argument)[1] > 1:
                        self._keep(argument)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._constant

    def folded(self, node: fx.Node) -> bool:
        """Whether a node is constant and no kept operator."""
        return node in self._constant and node not in self.kept

    def _keep(self, node: fx.Node) -> None:
        pending = [node]
        while pending:
            node = pending.pop()
            if node.op != "call_function" or node in self.kept or operator_name(node) not in EXACT or is_blocked(node):
                continue
            self.kept.add(node)
            if operator_name(node) in STARTS:
                continue
            # Smaller operands are scales, zero points and bounds, but for a matrix that is repeated for a batch.
            extent, repeats = _size(node)[0], _repeats(node)
            pending += [a for a in node.all_input_nodes if a in self._constant and (repeats or _size(a)[0] == extent)]

    def value(self, node: fx.Node) -> Any:
        """What torch computes for a constant node."""
        large: dict[fx.Node, Any] = {}  # forgotten when the value is there: all of them may be many times the weights
        with torch.no_grad():
            return self._computed(node, large)

    def _computed(self, node: fx.Node, large: dict[fx.Node, Any]) -> Any:
        for known in (self._values, large):
            if node in known:
                return known[node]
        arguments, named = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda a: self._computed(a, large) if isinstance(a, fx.Node) else a
        )
        value = node.target(*arguments, **named)
        (self._values if _size(node)[0] <= SMALL else large)[node] = value
        return value


def _repeats(node: fx.Node) -> bool:
    """Whether a node repeats whole matrices."""
    if operator_name(node) != "expand":
        return False
    shape = tuple(node.all_input_nodes[0].meta["val"].shape)
    return len(shape) > 1 and tuple(node.meta["val"].shape)[-len(shape) :] == shape


def _size(node: fx.Node) -> tuple[int, int]:
    """Number of elements and of dimensions; those of a tuple's first entry."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return (int(value.numel()), value.dim()) if isinstance(value, torch.Tensor) else (0, 0)


def _is_pure(node: fx.Node) -> bool:
    """Whether a node computes the same values every time, and without symbolic sizes."""
    if getattr(node.target, "__module__", "") == operator.add.__module__:
        return True  # Python's own, on numbers that item() took out of tensors
    tags = getattr(node.target, "tags", ())
    random = torch.Tag.nondeterministic_seeded in tags or "dropout" in operator_name(node)
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and not random and node.meta.get("val") is not None

"""What to tell a user of an ONNX node that cannot be imported: which node, and what does not fit, in ONNX's words."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Mapping
from types import MappingProxyType

import onnx

from schedules.errors import LowbitError

LISTED = "`tvm-lowbit spellings` lists the operators"
_FLOW = f"export it without control flow (torch.onnx.export traces only the branches that its example takes); {LISTED}"
_RECURRENT = f"unroll it into MatMul, Add, Sigmoid and Tanh, or compile the parts before and behind it; {LISTED}"
_OTHER = f"write it with other operators, or compile the parts before and behind it; {LISTED}"
_HINTS: Mapping[str, str] = MappingProxyType(
    {**dict.fromkeys(("If", "Loop", "Scan"), _FLOW), **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT)}
)
# What TVM writes into messages for its own developers.
_INTERNAL = (
    (re.compile(r"In ir\.Op\(.*?support_level=\d+\),?\s*"), ""),
    (re.compile(r".*Check failed: .*? is false:\s*(?=\S)"), ""),
    (re.compile(r"T\.int(?:32|64)\((-?\d+)\)"), r"\1"),
    (re.compile(r"R\.shape\((\[[^\]]*\])\)"), r"\1"),
    (re.compile(r"R\.Tensor\((\([^()]*\))[^()]*\)"), r"a tensor of shape \1"),
)
_LEFT = re.compile(r"span=|\b(?:ir|relax|tirx|[RTI])\.\w+\(|<[\w.]+ object at")
_INFERENCE = re.compile(r"\(op_type:(\w+)(?:, node name: ([^)]*))?\): (?:\[\w+\] )*(.*)")


def label(node: onnx.NodeProto) -> str:
    """A node's name, or its operator and first result where it has none."""
    return f"node {node.name}" if node.name else f"{node.op_type} that makes {next(iter(node.output), 'nothing')}"


def unknown_operator(node: onnx.NodeProto) -> LowbitError:
    """The error for an operator without a converter."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return LowbitError(label(node), "an operator that can be imported", kind, _HINTS.get(node.op_type, _OTHER))


def failure(model: onnx.ModelProto, node: onnx.NodeProto | None, error: BaseException) -> LowbitError:
    """The error for a node at which TVM's front end failed; without a node, for the model.

    ONNX's own shape inference says best what is wrong with a node; what it accepts is told in TVM's words.
    """
    if node is None:
        return LowbitError("ONNX import", "operators that can be imported", words(error), LISTED)
    where = f"{label(node)} ({node.op_type})" if node.name else label(node)
    article = "an" if node.op_type[0] in "AEIOU" else "a"
    said = _shape_inference(model, node)
    if said:
        hint = "the model is not valid ONNX: correct this node, or export it again"
        return LowbitError(where, f"{article} {node.op_type} that fits its inputs", said, hint)
    hint = f"does ONNX Runtime run the model? Then write this node in another way; {LISTED}"
    return LowbitError(where, f"{article} {node.op_type} that can be imported", words(error), hint)


def words(error: BaseException) -> str:
    """The last line of a message, without what only TVM's developers read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    for pattern, instead in _INTERNAL:
        text = pattern.sub(instead, text)
    if not text or _LEFT.search(text):
        return f"inputs and attributes that TVM's front end does not take ({type(error).__name__})"
    return textwrap.shorten(text, 300, placeholder=" ...")


def _shape_inference(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """What ONNX's shape inference says of a node; empty if it takes it."""
    bare = onnx.ModelProto()
    with contextlib.suppress(ValueError):  # larger than protobuf takes
        bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:  # a wrong shape declared for a result is not this node's fault
        output.type.tensor_type.ClearField("shape")
    try:
        onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises errors of several types here
        for kind, name, text in _INFERENCE.findall(str(error)):
            if (kind, name) == (node.op_type, node.name):
                return textwrap.shorten(text, 300, placeholder=" ...")
    return ""

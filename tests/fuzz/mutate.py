"""``mutant(seed, index)``: a seed model with one to three things wrong with it, the same for the same numbers.

``MUTATIONS`` is the table; a row changes a model in place, or gives bytes for what no model can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz.seeds import SEEDS

Random = np.random.Generator
# Numbers that quantisers, shapes and attributes do not like.
FLOATS = (0.0, -0.0, -1.0, 0.5, 1.5, 3.0, 255.0, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
INTEGERS = (-(2**31), -128, -3, -2, -1, 0, 1, 2, 3, 5, 7, 127, 255, 256, 65536, 2**31, 2**62)
STRINGS = ("", "x", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "CEIL", "FLOOR", "HALF_UP", "\u00e9 \u2603")
_STANDARD = """
Relu Sign Round Clip Identity Neg Abs Sigmoid Floor Ceil Add Sub Mul Div Min Max MatMul Gemm Conv Transpose Flatten
Reshape Concat Cast MaxPool AveragePool QuantizeLinear DequantizeLinear Quant Softmax Unsqueeze Shape Loop
"""
OPERATORS = tuple(_STANDARD.split())
DTYPES = (
    "FLOAT",
    "DOUBLE",
    "FLOAT16",
    "INT8",
    "UINT8",
    "INT32",
    "INT64",
    "BOOL",
    "STRING",
    "INT4",
    "UINT4",
    "BFLOAT16",
)


@dataclass(frozen=True)
class Mutant:
    """A file's bytes, the seed model's name, and what was done to it."""

    content: bytes
    seed: str
    steps: tuple[str, ...]


def _pick(r: Random, options: Any) -> Any:
    return options[int(r.integers(len(options)))]


def _tensors(m: onnx.ModelProto) -> list[str]:
    graph = m.graph
    return (
        [v.name for v in graph.input] + [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    )


def _drop_node(m: onnx.ModelProto, r: Random) -> None:
    """Its readers are left without."""
    del m.graph.node[int(r.integers(len(m.graph.node)))]


def _bypass_node(m: onnx.ModelProto, r: Random) -> None:
    """Its readers read what it read."""
    i = int(r.integers(len(m.graph.node)))
    gone = m.graph.node[i]
    for node in m.graph.node:
        for j, name in enumerate(node.input):
            if name in gone.output:
                node.input[j] = gone.input[0]
    del m.graph.node[i]


def _duplicate_node(m: onnx.ModelProto, r: Random) -> None:
    """With the same names, or with a result of its own."""
    i = int(r.integers(len(m.graph.node)))
    copy = onnx.NodeProto()
    copy.CopyFrom(m.graph.node[i])
    if r.random() < 0.5:
        copy.output[0] += "_again"
    m.graph.node.insert(i + 1, copy)


def _swap_nodes(m: onnx.ModelProto, r: Random) -> None:
    """The order is no longer one of execution."""
    i, j = (int(v) for v in r.integers(len(m.graph.node), size=2))
    first, second = onnx.NodeProto(), onnx.NodeProto()
    first.CopyFrom(m.graph.node[i])
    second.CopyFrom(m.graph.node[j])
    m.graph.node[i].CopyFrom(second)
    m.graph.node[j].CopyFrom(first)


def _rewire(m: onnx.ModelProto, r: Random) -> None:
    """An input reads any tensor, earlier or later, or one that nothing makes."""
    node = _pick(r, m.graph.node)
    if node.input:
        node.input[int(r.integers(len(node.input)))] = _pick(r, [*_tensors(m), "nobody", ""])


def _inputs_count(m: onnx.ModelProto, r: Random) -> None:
    """One input fewer, or more, or in another order."""
    node = _pick(r, m.graph.node)
    names = list(node.input)
    choice = int(r.integers(3))
    if choice == 0 and names:
        names.pop(int(r.integers(len(names))))
    elif choice == 1:
        names.insert(int(r.integers(len(names) + 1)), _pick(r, _tensors(m)))
    else:
        r.shuffle(names)
    node.input[:] = names


def _operator(m: onnx.ModelProto, r: Random) -> None:
    """Another operator, mostly with attributes that it does not know."""
    node = _pick(r, m.graph.node)
    node.op_type = _pick(r, OPERATORS)
    if r.random() < 0.7:
        del node.attribute[:]


def _domain(m: onnx.ModelProto, r: Random) -> None:
    _pick(r, m.graph.node).domain = _pick(r, ["", "ai.onnx", "qonnx.custom_op.general", "onnx.brevitas", "my.ops"])


def _attribute(m: onnx.ModelProto, r: Random) -> None:
    """An attribute's number, length or kind; or it is gone; or it was never there."""
    node = _pick(r, m.graph.node)
    if not node.attribute or r.random() < 0.3:
        name = _pick(
            r, ["axis", "alpha", "to", "group", "pads", "dilations", "output_dtype", "block_size", "ceil_mode"]
        )
        value = (
            [int(_pick(r, INTEGERS)) for _ in range(4)] if name in ("pads", "dilations") else int(_pick(r, INTEGERS))
        )
        node.attribute.append(helper.make_attribute(name, value))
        return
    i = int(r.integers(len(node.attribute)))
    a = node.attribute[i]
    choice = r.random()
    if choice < 0.15:
        del node.attribute[i]
    elif a.type == onnx.AttributeProto.INTS and choice < 0.8 and a.ints:
        j = int(r.integers(len(a.ints)))
        a.ints[j] = int(_pick(r, (*INTEGERS, a.ints[j] + 1)))
    elif a.type == onnx.AttributeProto.INTS:
        a.ints[:] = list(a.ints)[:-1] if choice < 0.9 else [*a.ints, 1]
    elif a.type == onnx.AttributeProto.INT and choice < 0.9:
        a.i = int(_pick(r, INTEGERS))
    elif a.type == onnx.AttributeProto.FLOAT and choice < 0.9:
        a.f = float(_pick(r, FLOATS))
    elif a.type == onnx.AttributeProto.STRING and choice < 0.9:
        a.s = _pick(r, STRINGS).encode()
    else:
        a.type = int(r.integers(1, 11))


def _array(m: onnx.ModelProto, r: Random) -> tuple[Any, Any]:
    tensor = _pick(r, m.graph.initializer)
    return tensor, numpy_helper.to_array(tensor)


def _store(tensor: Any, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))


def _values(m: onnx.ModelProto, r: Random) -> None:
    """One value, or all of them, as such lists have it or as any number."""
    tensor, array = _array(m, r)
    array = array.copy()
    options = FLOATS if array.dtype.kind == "f" else INTEGERS
    value = _pick(r, options) if r.random() < 0.6 else float(r.normal()) * 4
    with np.errstate(all="ignore"):
        number = (
            np.asarray(value).astype(array.dtype) if array.dtype.kind == "f" else np.int64(value).astype(array.dtype)
        )
    if array.size and r.random() < 0.6:
        array.reshape(-1)[int(r.integers(array.size))] = number
    else:
        array[...] = number
    _store(tensor, array)


def _shape(m: onnx.ModelProto, r: Random) -> None:
    """Values are kept, repeated or cut to fit; or the dimensions lie."""
    tensor, array = _array(m, r)
    shape = list(array.shape)
    choice = int(r.integers(6))
    if choice == 0:
        shape.insert(int(r.integers(len(shape) + 1)), 1)
    elif choice == 1 and shape:
        shape.pop(int(r.integers(len(shape))))
    elif choice == 2 and shape:
        shape[int(r.integers(len(shape)))] = int(_pick(r, [0, 1, 2, 3, 5]))
    elif choice == 3:
        shape = shape[::-1]
    elif choice == 4:
        shape = [int(v) for v in r.integers(1, 4, int(r.integers(5)))]
    else:
        tensor.dims[:] = [*shape, int(_pick(r, INTEGERS))]
        return
    _store(tensor, np.resize(array, shape))


def _dtype(m: onnx.ModelProto, r: Random) -> None:
    """The values in another type; or the type alone, so that the bytes do not fit."""
    tensor, array = _array(m, r)
    kind = getattr(TensorProto, _pick(r, DTYPES), TensorProto.FLOAT)
    if r.random() < 0.3:
        tensor.data_type = kind
        return
    with np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), tensor.name))


def _drop_constant(m: onnx.ModelProto, r: Random) -> None:
    """Or it becomes an input."""
    i = int(r.integers(len(m.graph.initializer)))
    tensor = m.graph.initializer[i]
    if r.random() < 0.5:
        m.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    if r.random() < 0.8:
        del m.graph.initializer[i]


def _as_node(m: onnx.ModelProto, r: Random) -> None:
    """A stored tensor becomes a Constant node, which means the same."""
    i = int(r.integers(len(m.graph.initializer)))
    tensor = m.graph.initializer[i]
    m.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], f"{tensor.name}/made", value=tensor))
    del m.graph.initializer[i]


def _opset(m: onnx.ModelProto, r: Random) -> None:
    _pick(r, m.opset_import).version = int(_pick(r, [-1, 0, 1, 6, 7, 9, 10, 11, 12, 14, 17, 19, 21, 23, 25, 99, 2**40]))


def _ir_version(m: onnx.ModelProto, r: Random) -> None:
    m.ir_version = int(_pick(r, [-1, 0, 1, 3, 4, 7, 9, 10, 99]))


def _input(m: onnx.ModelProto, r: Random) -> None:
    """Another shape or type of the model's input, or another name."""
    tensor = m.graph.input[0].type.tensor_type
    choice = int(r.integers(5))
    if choice == 0:
        tensor.elem_type = int(r.integers(0, 25))
    elif choice == 1:
        _pick(r, tensor.shape.dim).dim_value = int(_pick(r, [-1, 0, 1, 2, 3, 5, 7]))
    elif choice == 2:
        _pick(r, tensor.shape.dim).dim_param = "D"
    elif choice == 3:
        tensor.ClearField("shape")
    else:
        m.graph.input[0].name = _pick(r, _tensors(m))


def _output(m: onnx.ModelProto, r: Random) -> None:
    """Another tensor, one more, or none."""
    choice = int(r.integers(3))
    if choice == 0:
        m.graph.output[0].name = _pick(r, _tensors(m))
    elif choice == 1:
        m.graph.output.append(helper.make_tensor_value_info(_pick(r, _tensors(m)), TensorProto.FLOAT, [None] * 4))
    else:
        del m.graph.output[:]


def _name(m: onnx.ModelProto, r: Random) -> None:
    """Of a node or of what it makes: empty, taken, odd."""
    node = _pick(r, m.graph.node)
    name = _pick(r, ["", "x", "a.b/c", "\u00e9 [b]", _pick(r, m.graph.node).name, "lv1"])
    if r.random() < 0.5:
        node.name = name
    else:
        node.output[0] = name


def _external(m: onnx.ModelProto, r: Random) -> None:
    """A tensor whose values should be in a file."""
    tensor = _pick(r, m.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", _pick(r, ["nowhere.bin", "../up.bin", "/dev/zero", ""])), ("length", "4000000000")):
        tensor.external_data.add(key=key, value=value)


def _flip_bytes(content: bytes, r: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(int(r.integers(1, 9))):
        changed[int(r.integers(len(changed)))] = int(r.integers(256))
    return bytes(changed)


def _cut_bytes(content: bytes, r: Random) -> bytes:
    i, j = sorted(int(v) for v in r.integers(len(content), size=2))
    return content[:i] if r.random() < 0.5 else content[:i] + content[j:]


MUTATIONS: Mapping[str, Callable[[onnx.ModelProto, Random], None]] = MappingProxyType(
    {
        f.__name__.strip("_"): f
        for f in (
            _drop_node, _bypass_node, _duplicate_node, _swap_nodes, _rewire, _inputs_count, _operator, _domain,
            _attribute, _values, _shape, _dtype, _drop_constant, _as_node, _opset, _ir_version, _input, _output, _name,
            _external,
        )
    }
)  # fmt: skip
BYTES: Mapping[str, Callable[[bytes, Random], bytes]] = MappingProxyType(
    {"flip_bytes": _flip_bytes, "cut_bytes": _cut_bytes}
)
# Those that mostly leave a valid model come more often: they are what can go wrong silently.
OFTEN = ("attribute", "values", "values", "values", "shape", "shape", "dtype", "bypass_node", "as_node") * 2


def mutant(seed: int, index: int) -> Mutant:
    """The model of these two numbers."""
    r = np.random.default_rng([seed, index])
    name = _pick(r, list(SEEDS))
    model = SEEDS[name]()
    if r.random() < 0.15:
        how = _pick(r, ["flip_bytes"] * 4 + ["cut_bytes"])
        return Mutant(BYTES[how](model.SerializeToString(), r), name, (how,))
    steps = []
    for _ in range(int(_pick(r, [1, 1, 1, 2, 3]))):
        how = _pick(r, [*MUTATIONS, *OFTEN])
        if model.graph.node and model.graph.initializer and len(model.graph.input):
            try:
                MUTATIONS[how](model, r)
            except Exception:  # an earlier step left what onnx itself can no longer read; or no tensor can hold this
                continue
            steps.append(how)
    return Mutant(model.SerializeToString(), name, tuple(steps))

"""QDQ with 4- and 2-bit types: codes and outputs as ONNX's reference evaluator has them; what is refused is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from models import model
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.from_onnx.sub_byte import NARROW, widen

OPSETS = {"INT4": 21, "UINT4": 21, "INT2": 25, "UINT2": 25}
BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
F = np.float32


def network(activation: str, weight: str, channels: bool = True, stated: str = "zero_point") -> onnx.ModelProto:
    """QuantizeLinear, DequantizeLinear, Conv of stored weights, QuantizeLinear, DequantizeLinear, Relu.

    The type of codes is stated by the zero point, by ``output_dtype``, or by both.
    """
    rng = np.random.default_rng(1)
    kinds = {name: getattr(TensorProto, name) for name in (activation, weight)}
    low = NARROW[kinds[weight]]
    codes = rng.integers(low.lo, low.hi + 1, (4, 3, 3, 3))
    # Powers of two, so that the reference's float32 sums are exact; weights' zero points are 0 or, unsigned, 1.
    scales = F([0.25, 0.5, 0.125, 0.25]) if channels else F(0.25)
    arrays = {"a_s": F(0.5), "w_s": scales, "q_s": F(0.73)}
    zero = 1 if "zero_point" in stated else 0
    typed = {"a_z": (activation, [zero], ()), "q_z": (activation, [zero], ())}
    typed["w_z"] = (weight, [int(low.lo == 0)] * (4 if channels else 1), (4,) if channels else ())
    typed["w"] = (weight, codes.reshape(-1), codes.shape)
    attrs = {"output_dtype": kinds[activation]} if "output_dtype" in stated else {}
    zeros = ("a_z", "q_z") if "zero_point" in stated else ("", "")
    n = helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "a_s", *filter(None, zeros[:1])], ["a_q"], "a_q", **attrs),
        n("DequantizeLinear", ["a_q", "a_s", *filter(None, zeros[:1])], ["a"], "a"),
        n("DequantizeLinear", ["w", "w_s", "w_z"], ["weights"], "weights", axis=0),
        n("Conv", ["a", "weights"], ["c"], "conv", pads=[1, 1, 1, 1]),
        n("QuantizeLinear", ["c", "q_s", *filter(None, zeros[1:])], ["q_q"], "q_q", **attrs),
        n("DequantizeLinear", ["q_q", "q_s", *filter(None, zeros[1:])], ["q"], "q"),
        n("Relu", ["q"], ["y"], "relu"),
    ]
    made = model(nodes, arrays, ["N", 3, 6, 6], ["y"], max(OPSETS[activation], OPSETS[weight]))
    for name, (kind, values, shape) in typed.items():
        made.graph.initializer.append(helper.make_tensor(name, kinds[kind], shape, values))
    made.ir_version = 13
    return made


def inputs() -> Any:
    """Ties and codes, far beyond the range as well."""
    x = np.random.default_rng(2).integers(-20, 21, (3, 3, 6, 6)) / 4
    x[2] *= 1e6
    return x.astype(F)


def assert_exact(made: onnx.ModelProto, bits: str) -> None:
    """All codes and outputs equal, and the layer at its width."""
    artifact = tvm_lowbit.build(made, "host", probe=True)
    x = inputs()
    result = artifact.run(x)
    probed = onnx.ModelProto()
    probed.CopyFrom(made)
    names = {"a": "a_q", "q": "q_q"}
    for tensor in names.values():
        probed.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    y, *codes = ReferenceEvaluator(probed).run(None, {"x": x})
    np.testing.assert_array_equal(result.outputs["y"], y)
    for name, expected in zip(names, codes, strict=True):
        np.testing.assert_array_equal(result.codes[name], np.asarray(expected).astype(np.int32), err_msg=name)
    (row,) = artifact.report.low_bit
    assert row.bits == bits


@pytest.mark.parametrize("weight", ["INT4", "UINT4", "INT2", "UINT2"])
@pytest.mark.parametrize("activation", ["INT4", "UINT4", "INT2", "UINT2"])
def test_types(activation: str, weight: str) -> None:
    """Any type on either side."""
    zero = "output_dtype" if activation == "INT2" else "zero_point"
    assert_exact(network(activation, weight, stated=zero), f"W{BITS[weight]}A{BITS[activation]}")


@pytest.mark.parametrize("stated", ["zero_point", "output_dtype", "zero_point and output_dtype"])
@pytest.mark.parametrize("channels", [False, True])
def test_how_the_type_is_stated(stated: str, channels: bool) -> None:
    """By the zero point, the attribute, or both; per tensor and per channel."""
    assert_exact(network("UINT4", "INT4", channels, stated), "W4A4")


def test_carriers_mean_the_same() -> None:
    """The rewritten model by ONNX Runtime, optimisations off, and the caller's as it was."""
    made = network("UINT4", "INT4")
    before = made.SerializeToString()
    wide = widen(made)
    assert made.SerializeToString() == before
    onnx.checker.check_model(wide)
    kinds = {t.data_type for t in wide.graph.initializer}
    assert not kinds & set(NARROW)
    np.testing.assert_array_equal(oracle.run(wide, inputs()), ReferenceEvaluator(made).run(None, {"x": inputs()})[0])
    assert widen(wide) is wide


def test_constant_nodes_count_as_stored() -> None:
    """Weights and zero points in Constant nodes."""
    made = network("UINT4", "INT4")
    kept = [t for t in made.graph.initializer if t.name.endswith("_s")]
    for tensor in [t for t in made.graph.initializer if not t.name.endswith("_s")]:
        made.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], f"{tensor.name}/c", value=tensor))
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    assert_exact(made, "W4A4")


def test_blocks_are_refused() -> None:
    """Named, with the block size."""
    made = network("UINT4", "INT4")
    made.graph.node[2].attribute.append(helper.make_attribute("block_size", 3))
    made.graph.node[2].attribute[0].i = 1
    for name in ("w_s", "w_z"):
        (tensor,) = [t for t in made.graph.initializer if t.name == name]
        kind = TensorProto.FLOAT if name == "w_s" else TensorProto.INT4
        tensor.CopyFrom(helper.make_tensor(name, kind, (4, 1, 3, 3), [1] * 36))
    with pytest.raises(LowbitError, match=r"node weights.*blocked quantisation \(block_size 3\)"):
        tvm_lowbit.build(made, "host")


def test_sub_byte_interfaces_are_refused() -> None:
    """Inputs, outputs and casts."""
    given = network("UINT4", "INT4")
    given.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT4
    taken = network("UINT4", "INT4")
    taken.graph.output.append(helper.make_tensor_value_info("a_q", TensorProto.UINT4, ["N", 3, 6, 6]))
    cast = network("UINT4", "INT4")
    cast.graph.node.append(helper.make_node("Cast", ["x"], ["late"], "cast", to=TensorProto.INT4))
    for made, words in ((given, "input x.*UINT4"), (taken, "output a_q.*UINT4"), (cast, "node cast.*Cast to INT4")):
        with pytest.raises(LowbitError, match=words):
            tvm_lowbit.build(made, "host")


@pytest.mark.parametrize(("more", "words"), [(-1, "too small"), (1, "tensor w: expected values that fill its shape")])
def test_values_that_do_not_fill_their_shape(more: int, words: str) -> None:
    """Packed, so that a byte has two; ONNX's checker takes more than there should be."""
    made = network("UINT4", "INT4")
    for tensor in made.graph.initializer:
        if tensor.name == "w":
            packed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), "w")
            tensor.CopyFrom(packed)
            tensor.raw_data = packed.raw_data[:-1] if more < 0 else packed.raw_data + bytes(more)
    with pytest.raises(LowbitError, match=words):
        tvm_lowbit.build(made, "host")

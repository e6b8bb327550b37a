"""The example network, trained on real data: everything that the project promises, on all digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle
import pytest
from data import all_digits, load_digits_split
from emulator import require_emulator
from qcdq import to_qcdq

import tvm_lowbit
from tvm_lowbit.boards import EmulatedBoard

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
NETWORKS = ("digits_w2a2", "digits_w1a2")
INNER = ("W2A2", "W1A2")


def relative(got: oracle.Array, expected: oracle.Array) -> float:
    """Largest difference over the largest value of its row."""
    return float((np.abs(got - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def host(network: str) -> tuple[tvm_lowbit.Artifact, tvm_lowbit.artifact.Result]:
    """The network for this machine, probed and explained, and its results on all digits."""
    methods = [tvm_lowbit.DeepLift(reference=0.0, target="argmax")]
    artifact = tvm_lowbit.build(DIGITS / f"{network}.onnx", "host", explain=methods, probe=True)
    return artifact, artifact.run(all_digits()[0])


def test_all_digits_equal_onnx_runtime(network: str, host: tuple) -> None:
    """Argmax on 100 %, logits within 1e-4 relative, every code of every quantiser equal."""
    model, x = oracle.load(DIGITS / f"{network}.onnx"), all_digits()[0]
    expected = oracle.run(model, x)
    result = host[1]
    assert len(x) == 1797
    np.testing.assert_array_equal(result.outputs["logits"].argmax(1), expected.argmax(1))
    assert relative(result.outputs["logits"], expected) <= 1e-4
    codes = oracle.codes(model, x, list(result.codes))
    assert len(codes) == 8
    for name, values in codes.items():
        np.testing.assert_array_equal(result.codes[name], values, err_msg=name)


def test_quantize_clip_dequantize_spelling_is_the_same_network() -> None:
    """QuantizeLinear-Clip-DequantizeLinear gives the codes of ONNX Runtime on that graph.

    Not W1A2: its bipolar weights have a zero point of 1/2, which QuantizeLinear cannot write.
    """
    model, x = to_qcdq(oracle.load(DIGITS / "digits_w2a2.onnx")), all_digits()[0][:200]
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph.node) == 15
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == ["W8A8", *["W2A2"] * 5, "W8A8"]
    result = artifact.run(x)
    assert relative(result.outputs["logits"], oracle.run(model, x)) <= 1e-4
    for name, values in oracle.codes(model, x, list(result.codes)).items():
        np.testing.assert_array_equal(result.codes[name], values, err_msg=name)


def test_emulated_arm_equals_onnx_runtime_and_the_host(network: str, host: tuple) -> None:
    """100 digits on emulated Cortex-A72: codes and logits, and the explanation to float rounding."""
    require_emulator()
    x = all_digits()[0][:100]
    methods = [tvm_lowbit.DeepLift()]
    artifact = tvm_lowbit.build(DIGITS / f"{network}.onnx", "arm_cpu", explain=methods, probe=True)
    result = artifact.run(x, board=EmulatedBoard(cpu="cortex-a72"))
    model, here = oracle.load(DIGITS / f"{network}.onnx"), host[1]
    expected = oracle.run(model, x)
    np.testing.assert_array_equal(result.outputs["logits"].argmax(1), expected.argmax(1))
    assert relative(result.outputs["logits"], expected) <= 1e-4
    for name, values in oracle.codes(model, x, list(result.codes)).items():
        np.testing.assert_array_equal(result.codes[name], values, err_msg=name)
    np.testing.assert_array_equal(result.outputs["logits"], here.outputs["logits"][:100])
    there, local = result.explanations["deeplift"], here.explanations["deeplift"]
    np.testing.assert_allclose(there.contributions, local.contributions[:100], atol=1e-4)
    difference = there.contributions.reshape(100, -1).sum(1) - there.gap
    assert np.all(np.abs(there.gap) <= 1e-4 * np.maximum(1, np.abs(difference)))


def test_gap_is_small_on_every_test_digit(network: str, host: tuple) -> None:
    """Contributions sum to the difference of the outputs, and the gap says by how much they do not."""
    x = all_digits()[0]
    explanation, logits = host[1].explanations["deeplift"], host[1].outputs["logits"]
    np.testing.assert_array_equal(explanation.target, logits.argmax(1))
    zero = host[0].run(np.zeros_like(x[:1])).outputs["logits"][0]
    difference = logits[np.arange(len(x)), explanation.target] - zero[explanation.target]
    gap = explanation.contributions.reshape(len(x), -1).sum(1) - difference
    test_set = {image.tobytes() for image in load_digits_split().x_test}
    tested = np.array([image.tobytes() in test_set for image in x])
    assert tested.sum() == 500
    bound = 1e-4 * np.maximum(1, np.abs(difference))
    assert np.all(np.abs(explanation.gap)[tested] <= bound[tested])
    assert np.all(np.abs(gap)[tested] <= bound[tested])
    # Where a quantiser's step falls on a tiny difference, contributions of hundreds cancel: float32 rounds each.
    size = np.abs(explanation.contributions).reshape(len(x), -1).sum(1)
    assert np.all(np.abs(explanation.gap) <= 1e-6 * np.maximum(1, size))
    assert np.all(explanation.contributions[x == 0] == 0)


def test_every_quantised_layer_is_low_bit_and_small(network: str, host: tuple) -> None:
    """Five inner layers at their bits, first and last at 8; weights with all their tables at most 1/12 of fp32."""
    report = tvm_lowbit.inspect(DIGITS / f"{network}.onnx", "arm_cpu")
    bits = network.removeprefix("digits_").upper()
    assert [row.bits for row in report.low_bit] == ["W8A8", *[bits] * 5, "W8A8"]
    assert report.stays_float == []
    assert {row.technique for row in report.low_bit[1:-1]} <= {"bit_select", "bit_serial", "winograd"}
    inner = [row for row in report.low_bit if row.bits in INNER]
    assert 12 * sum(row.bytes for row in inner) <= sum(row.float_bytes for row in inner)
    assert host[0].report.stays_float == []


def test_library_is_smaller_than_its_fp32_twin(network: str) -> None:
    """The same network in fp32, compiled the same way: the whole library, code included, must be larger."""
    small = tvm_lowbit.build(DIGITS / f"{network}.onnx", "arm_cpu")
    twin = tvm_lowbit.build(DIGITS / "digits_fp32.onnx", "arm_cpu")
    assert twin.report.low_bit == []
    assert all("not quantised" in row.reason for row in twin.report.stays_float)
    assert small.library().stat().st_size < twin.library().stat().st_size


@pytest.mark.parametrize(("name", "least"), [("fp32", 0.975), ("w2a2", 0.96), ("w1a2", 0.95)])
def test_accuracy_of_the_committed_networks(name: str, least: float) -> None:
    """ONNX Runtime on the committed file reaches the accuracy that its results file states."""
    split, path = load_digits_split(), DIGITS / f"digits_{name}.onnx"
    assert path.stat().st_size < 1_000_000
    accuracy = float((oracle.run(oracle.load(path), split.x_test).argmax(1) == split.y_test).mean())
    assert accuracy >= least
    assert accuracy == json.loads((DIGITS / "results.json").read_text())["test_accuracy"][name]


@pytest.mark.parametrize("technique", ["reference", "portable", "bit_serial"])
def test_every_technique_gives_the_same_logits_and_explanation(technique: str, network: str, host: tuple) -> None:
    """Whichever kernels compute the accumulators, nothing changes."""
    x = all_digits()[0][:20]
    methods = [tvm_lowbit.DeepLift()]
    artifact = tvm_lowbit.build(DIGITS / f"{network}.onnx", "host", explain=methods, technique=technique)
    assert {row.technique for row in artifact.report.low_bit} == {technique}
    result = artifact.run(x)
    np.testing.assert_array_equal(result.outputs["logits"], host[1].outputs["logits"][:20])
    expected = host[1].explanations["deeplift"].contributions[:20]
    np.testing.assert_allclose(result.explanations["deeplift"].contributions, expected, atol=1e-6)

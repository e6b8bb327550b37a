"""What a compiled mutant may answer: what ONNX Runtime (optimisations off) answers, or what rounding could make of it.

Products are summed in integers here and in float32 there, so a sum that lies within its own rounding of a quantiser's
boundary may get the neighbouring code. First the answers are compared directly. Where they differ, the model is run
again with noise of `NOISE` (relative to the tensor's largest value) on the results of operators that sum, and of those
only: an answer passes if it lies within what these runs give, element by element. Noise moves only what lies next to a
boundary, so everything else must still agree; and an input that is quantised directly never gets any, so ties there are
compared bit for bit. Where some tensor of the graph is NaN or infinite, codes mean nothing, and nothing is compared.

A model that ONNX Runtime refuses should not have been answered, unless it only lacks an operator, a type or a version:
then ONNX's checker and its strict shape inference must accept the model.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from qonnx_oracle import spelled_out

Array = npt.NDArray[Any]
# Weights may lie 1e-5 of a step beside their grid (see recover_grid), which is more than sums of float32 stray.
NOISE = 2e-5
TOLERANCE = 1e-4
RUNS = 24
_SUMS = "Conv MatMul Gemm AveragePool GlobalAveragePool BatchNormalization Softmax Sigmoid ReduceMean Add Sub Sum"
SUMS = frozenset(_SUMS.split())
# What ONNX Runtime says where it has no kernel for an operator or a type, or knows no such version.
LACKING = re.compile(r"NOT_IMPLEMENTED|Unsupported model IR version|\*guarantees\* support")


@dataclass(frozen=True)
class Verdict:
    """An outcome.

    ``kind`` is "equal", "near" (within rounding), "undefined" (NaN), "no oracle", "wrong" or "accepted",
    which is what the reference refuses.
    """

    kind: str
    detail: str = ""


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in ONNX's own operators."""
    return spelled_out(model)[0] if any(node.domain for node in model.graph.node) else model


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name of its own for each node, which ONNX does not ask for, and ONNX Runtime does."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    for i, node in enumerate(result.graph.node):
        node.name = f"{i}/{node.name}"
    return result


def _refused(model: onnx.ModelProto, error: BaseException) -> Verdict:
    """The verdict for an answer to a model that ONNX Runtime does not run."""
    said = _first(error)
    # QONNX's operators are spelled out for it; what it says of that is not about the model.
    if not LACKING.search(str(error)) and not any(node.domain for node in model.graph.node):
        return Verdict("accepted", f"accepted what the reference refuses: {said}")
    declared = onnx.ModelProto.FromString(model.SerializeToString())
    # Older exporters do not declare the domains of their own operators; each has one version.
    missing = {node.domain for node in model.graph.node} - {opset.domain for opset in model.opset_import}
    declared.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(missing) if domain)
    try:
        onnx.checker.check_model(declared)
        # Shapes of outputs that exporters left behind do not matter; ONNX Runtime looks at none of them.
        for output in declared.graph.output:
            output.type.tensor_type.ClearField("shape")
        onnx.shape_inference.infer_shapes(declared, check_type=True, strict_mode=True)
    except Exception as invalid:  # onnx raises many types
        return Verdict("accepted", f"accepted what ONNX refuses: {_first(invalid)}")
    return Verdict("no oracle", said)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def judge(content: bytes, x: dict[str, Array], got: dict[str, Array]) -> Verdict:
    """Compare the outputs of a compiled model with ONNX Runtime's for the file."""
    names = list(got)
    given = onnx.ModelProto.FromString(content)
    try:
        model = _named(_standard(given))
    except Exception as error:  # a spelling that the oracle has no words for
        return Verdict("no oracle", _first(error))
    try:
        expected = dict(zip(names, _session(model).run(names, x), strict=True))
    except Exception as error:  # onnxruntime raises many types
        return _refused(given, error)
    for name in names:
        if np.shape(got[name]) != np.shape(expected[name]):
            return Verdict("wrong", f"{name} has shape {np.shape(got[name])}, should be {np.shape(expected[name])}")
    if all(_within(got[n], expected[n], expected[n]) for n in names):
        return Verdict("equal")
    if _undefined(model, x):
        return Verdict("undefined")
    random = np.random.default_rng(0)
    low, high = dict(expected), dict(expected)
    for _ in range(RUNS):
        noisy = dict(zip(names, _session(_with_noise(model, random)).run(names, x), strict=True))
        low = {n: np.minimum(low[n], noisy[n]) for n in names}
        high = {n: np.maximum(high[n], noisy[n]) for n in names}
    if all(_within(got[n], low[n], high[n]) for n in names):
        return Verdict("near")
    worst = {n: float(np.max(np.maximum(low[n] - got[n], got[n] - high[n]))) for n in names}
    return Verdict("wrong", ", ".join(f"{n} is off by {v:.3g}" for n, v in worst.items()))


def _within(got: Array, low: Array, high: Array) -> bool:
    """Between two arrays, give or take a share of the largest value."""
    with np.errstate(all="ignore"):
        if np.array_equal(got, low, equal_nan=low.dtype.kind == "f"):
            return True
        slack = TOLERANCE * max(1e-30, float(np.max(np.abs(high), initial=0)), float(np.max(np.abs(low), initial=0)))
        return bool(np.all((got >= low - slack) & (got <= high + slack)))


def _undefined(model: onnx.ModelProto, x: dict[str, Array]) -> bool:
    """Whether some float tensor on the way holds NaN or infinity."""
    probed = onnx.ModelProto.FromString(model.SerializeToString())
    known = {output.name for output in probed.graph.output}
    made = [name for node in probed.graph.node for name in node.output if name and name not in known]
    probed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in made)
    session = _session(probed)
    floats = [output.name for output in session.get_outputs() if output.type in ("tensor(float)", "tensor(double)")]
    return any(not np.all(np.isfinite(v)) for v in session.run(floats, x))


def _with_noise(model: onnx.ModelProto, random: np.random.Generator) -> onnx.ModelProto:
    """The model with ``y * (1 + noise) + max(abs(y)) * noise`` in place of each sum; the noise is that of a tensor."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    graph, nodes = result.graph, []
    for node in model.graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        nodes.append(kept)
        if node.op_type not in SUMS or len(node.output) != 1:
            continue
        name = node.output[0]
        exact = kept.output[0] = f"{name}/exact"

        def add(operator: str, *inputs: str, output: str, **attrs: Any) -> str:
            nodes.append(
                onnx.helper.make_node(operator, list(inputs), [output], f"{output}/noise{len(nodes)}", **attrs)
            )
            return output

        relative = f"{name}/noise"
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(NOISE * random.uniform(-1, 1)), relative))
        size = add("Abs", exact, output=f"{name}/abs")
        largest = add("ReduceMax", size, output=f"{name}/max", keepdims=0)
        seed = float(random.integers(1 << 20))  # without one ONNX Runtime draws other noise in every process
        spread = add("RandomUniformLike", exact, output=f"{name}/random", low=-NOISE, high=NOISE, dtype=1, seed=seed)
        spread = add("Mul", spread, largest, output=f"{name}/spread")
        spread = add("Add", spread, add("Mul", exact, relative, output=f"{name}/by"), output=f"{name}/all")
        add("Add", exact, spread, output=name)
    del graph.node[:]
    graph.node.extend(nodes)
    return result

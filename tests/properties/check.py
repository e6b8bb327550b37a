"""The check of one random graph; a graph that fails it is saved, and `reproduce` runs the check on the file again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graphs import batch
from onnx_graphs import run_onnx

import tvm_lowbit

FOLDER = Path(__file__).parents[2] / "out" / "failing"
# Of the distance between two codes: nearer to a tie than this, float32 rounding decides.
NEAR = 1e-4


def settings_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Seed of the inputs, tensors of codes by quantiser, what is rounded, exact, and a product on integers."""
    return dict(json.loads(next(p.value for p in model.metadata_props if p.key == "check")))


def inputs_of(model: onnx.ModelProto) -> dict[str, Any]:
    """The inputs that the check uses."""
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim[1:]) for i in model.graph.input}
    return batch(shapes, settings_of(model)["seed"])


def decided(model: onnx.ModelProto) -> bool:
    """Whether no rounded value lies so near a tie of its quantiser that its code depends on the runtime."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    firsts = []
    for name in settings_of(model)["rounded"]:
        first = nodes.get(f"{name}/div") or nodes[f"{name}/q"]
        firsts.append((first.input[0], float(arrays[first.input[1]])))
    if not firsts:
        return True
    values = run_onnx(model, inputs_of(model), [tensor for tensor, _ in firsts])
    for (_, scale), x in zip(firsts, values, strict=True):
        quotient = x.astype(np.float64) / scale
        if np.any(np.abs(np.abs(quotient - np.floor(quotient)) - 0.5) < NEAR * np.maximum(1, np.abs(quotient) / 64)):
            return False
    return True


def check(model: onnx.ModelProto) -> None:
    """Codes of every quantiser equal to ONNX Runtime's, exact outputs too, others within 1e-4 of the largest value.

    Products of quantised tensors and quantised weights run on integers.
    """
    said, x = settings_of(model), inputs_of(model)
    outputs = [value.name for value in model.graph.output]
    wanted = run_onnx(model, x, [*outputs, *said["codes"].values()])
    artifact = tvm_lowbit.build(model, "host", probe=True)
    result = artifact.run(x if len(x) > 1 else next(iter(x.values())))
    codes = dict(zip(said["codes"], wanted[len(outputs) :], strict=True))
    for name, found in result.codes.items():
        np.testing.assert_array_equal(found, codes[name].astype(np.int32), err_msg=f"codes of {name}")
    for name, values in zip(outputs, wanted, strict=False):
        if name in said["exact"]:
            np.testing.assert_array_equal(result.outputs[name], values, err_msg=f"output {name}")
        else:
            largest = max(1e-6, float(np.abs(values).max()))
            np.testing.assert_allclose(result.outputs[name], values, rtol=1e-4, atol=1e-4 * largest, err_msg=name)
    left = set(said["on_integers"]) - {row.name for row in artifact.report.low_bit}
    # Behind a ReLU, codes of -1 and 0 are 0 alone: nothing is quantised there, and the report says so.
    left -= {row.name for row in artifact.report.stays_float if "holds fewer than two codes" in row.reason}
    assert not left, f"quantised products in float: {sorted(left)}\n{artifact.report}"


def check_and_save(model: onnx.ModelProto) -> None:
    """`check`; where it fails, the model is saved. The last one saved is the smallest: hypothesis ends with it."""
    try:
        check(model)
    except Exception as error:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / "graph.onnx"
        onnx.save(model, path)
        seed = settings_of(model)["seed"]
        how = f'PYTHONPATH=tests/passes:tests/properties python -c "import check; check.reproduce({str(path)!r})"'
        message = f"{type(error).__name__}: {error}\nsaved as {path}, inputs of seed {seed}; again: {how}"
        raise AssertionError(message) from error


def reproduce(path: str | Path) -> None:
    """Run the check on a saved graph, and print the layers first."""
    model = onnx.load(str(path))
    print(onnx.printer.to_text(model.graph))
    print(tvm_lowbit.inspect(model, "host"))
    check(model)

"""PyTorch to Relax: ``torch.export`` programs with ``fake_quantize_*`` operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.coverage import Coverage, Spelling
from relay_passes.ops import FAKE_QUANT, call
from schedules.errors import LowbitError
from tvm_lowbit import torch_moving


def export_module(module: Any, example_inputs: tuple[Any, ...] | None) -> Any:
    """``torch.export.export`` of a module in evaluation mode.

    Raises
    ------
    LowbitError
        Without example inputs, or if torch cannot export the module.
    """
    import torch

    if example_inputs is None:
        raise LowbitError("build", "example_inputs with a torch.nn.Module", "None", "pass example_inputs=(tensor, ...)")
    try:
        return torch.export.export(module.eval(), tuple(example_inputs))
    except Exception as error:  # torch raises many types here
        first = str(error).strip().splitlines()[:1]
        raise LowbitError(
            type(module).__name__, "a module that torch.export takes", (first or [type(error).__name__])[0]
        ) from error


def import_torch(program: Any) -> Any:
    """Relax IRModule of a ``torch.export.ExportedProgram``; ``main`` has the attribute ``output_names``."""
    from tvm.relax.frontend.torch import from_exported_program

    try:
        mod = from_exported_program(program, custom_convert_map=_CONVERTERS, unwrap_unit_return_tuple=True)
    except AssertionError as error:
        hint = "export the model to ONNX if TVM's torch front end lacks an operator"
        raise LowbitError("torch import", "operators that can be imported", str(error), hint) from error
    outputs = [str(name) for name in program.graph_signature.user_outputs]
    mod.update_func(mod.get_global_var("main"), mod["main"].with_attr("output_names", outputs))
    return mod


def _fake_quant(importer: Any, x: Any, scale: Any, zero: Any, axis: int, qmin: int, qmax: int) -> Any:
    """Torch multiplies by the reciprocal of the scale, hence the form."""
    arrays = [relax.const(np.float32(v)) if isinstance(v, int | float) else v for v in (scale, zero)]
    arrays = [
        v if v.ty.dtype == "float32" else importer.block_builder.emit(relax.op.astype(v, "float32")) for v in arrays
    ]
    attrs = {"qmin": qmin, "qmax": qmax, "axis": axis, "form": "reciprocal"}
    return importer.block_builder.emit(call(FAKE_QUANT, x, *arrays, **attrs))


def _per_tensor(node: Any, importer: Any) -> Any:
    x, scale, zero, qmin, qmax = importer.retrieve_args(node)[:5]
    return _fake_quant(importer, x, scale, zero, -1, qmin, qmax)


def _per_tensor_switched(node: Any, importer: Any) -> Any:
    x, scale, zero, _enabled, qmin, qmax = importer.retrieve_args(node)[:6]
    return _fake_quant(importer, x, scale, zero, -1, qmin, qmax), None


def _per_channel(node: Any, importer: Any) -> Any:
    x, scale, zero, axis, qmin, qmax = importer.retrieve_args(node)[:6]
    return _fake_quant(importer, x, scale, zero, axis, qmin, qmax)


_CONVERTERS = {
    **torch_moving.CONVERTERS,
    "fake_quantize_per_tensor_affine.default": _per_tensor,
    "fake_quantize_per_tensor_affine.tensor_qparams": _per_tensor,
    "fake_quantize_per_tensor_affine_cachemask.default": lambda n, i: (_per_tensor(n, i), None),
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default": _per_tensor_switched,
    "fake_quantize_per_channel_affine.default": _per_channel,
    "fake_quantize_per_channel_affine_cachemask.default": lambda n, i: (_per_channel(n, i), None),
}
SPELLINGS = (
    Spelling(
        "torch_fake_quantize",
        "torch.fake_quantize per tensor and per channel",
        Coverage(("torch",)),
        _fake_quant,
        tuple(_CONVERTERS),
    ),
)

"""PyTorch to Relax: modules are exported, exported programs imported; torch itself is only needed where one is used."""

from __future__ import annotations

from typing import Any

from schedules.errors import LowbitError


def export_module(module: Any, example_inputs: tuple[Any, ...] | None) -> Any:
    """``torch.export.export`` of a module in evaluation mode.

    Fake-quantising modules that branch on buffers of theirs (``torch.ao.quantization.FakeQuantize`` and its kin) are
    replaced, in a copy that shares all tensors, by the operator they call.

    Raises
    ------
    LowbitError
        Without example inputs, if an observer is still on, or if torch cannot export the module.
    """
    import torch

    from tvm_lowbit.from_torch.modules import frozen

    if example_inputs is None:
        raise LowbitError("build", "example_inputs with a torch.nn.Module", "None", "pass example_inputs=(tensor, ...)")
    if not isinstance(example_inputs, list | tuple):
        got = type(example_inputs).__name__
        raise LowbitError("example_inputs", "a tuple of tensors", got, "pass example_inputs=(tensor, ...)")
    modes = [(part, part.training) for part in module.modules()]
    try:
        return torch.export.export(frozen(module.eval()), tuple(example_inputs))
    except LowbitError:
        raise
    except Exception as error:  # torch raises many types here
        first = str(error).strip().splitlines()[:1]
        raise LowbitError(
            type(module).__name__, "a module that torch.export takes", (first or [type(error).__name__])[0]
        ) from error
    finally:
        # The user's own module, perhaps in the midst of training: as it was.
        for part, training in modes:
            part.training = training


def import_torch(program: Any) -> Any:
    """Relax IRModule of a ``torch.export.ExportedProgram``.

    Variables carry the names of the torch modules that made them; ``main`` has the attribute ``output_names``.

    Raises
    ------
    LowbitError
        For operators without a converter and quantisers whose parameters are computed at run time; it names the
        operator and the layer.
    """
    from tvm_lowbit.from_torch.graph import Importer

    mod = Importer(program).module()
    outputs = [str(name) for name in program.graph_signature.user_outputs]
    mod.update_func(mod.get_global_var("main"), mod["main"].with_attr("output_names", outputs))
    return mod

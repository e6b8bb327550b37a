"""``build``: any model to a compiled library that explains itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import tvm

from relay_passes import notes
from relay_passes.attribution import instrument
from relay_passes.attribution.methods import Method
from relay_passes.compile import compile_module
from relay_passes.dataflow import name_of
from relay_passes.memory import MemoryPlan
from relay_passes.probe import ATTRIBUTE as PROBES
from schedules.errors import LowbitError
from tvm_lowbit.artifact import Artifact
from tvm_lowbit.boards.rows import BuildTarget, resolve
from tvm_lowbit.frontend import import_model
from tvm_lowbit.manifest import AssignmentRow, ExplanationRow, KernelRow, LayerRow, Manifest, MemoryRow, TensorRow
from tvm_lowbit.pipeline import Options, run_phases
from tvm_lowbit.progress import Step, told
from tvm_lowbit.report import Report


def build(
    model: Any,
    target: Any = "arm_cpu",
    *,
    explain: Sequence[Method] = (),
    example_inputs: tuple[Any, ...] | None = None,
    batch: int = 1,
    technique: str | None = None,
    exclude: Sequence[str] = (),
    probe: bool = False,
    progress: bool | Callable[[str], None] = False,
) -> Artifact:
    """Compile a fake-quantised network into a low-bit library.

    Parameters
    ----------
    model : path, onnx.ModelProto, torch.export.ExportedProgram, torch.nn.Module or tvm.IRModule
        float32 inputs, first dimension the batch.
    target : str, dict or tvm.target.Target
        ``"arm_cpu"`` (any Armv8-A), a board (``"rpi3"``, ``"rpi4"``, ``"rpi5"``), ``"host"``, or a target of TVM.
    explain : sequence of Method
        Explanations compiled into the same library; one may stand by itself.
    example_inputs : tuple of tensors, optional
        What a ``torch.nn.Module`` is traced with.
    batch : int
        Items computed in one call; stands for a symbolic batch.
    technique : str, optional
        Use this kernel technique wherever it does not decline.
    exclude : sequence of str
        Names of layers, as the report shows them or as the model's nodes have them, that stay float.
    probe : bool
        Also return the integer codes of every activation quantiser (``result.codes``).
    progress : bool or callable
        True shows steps and layers on stderr. A callable is told each `progress.Step`, a ``str``, as it begins: first
        the step, then its layers, as in ``lower: conv1 (3 of 21)``.

    Returns
    -------
    Artifact

    Raises
    ------
    LowbitError
        If the model, the target or an explanation cannot be served; the message says where, expected, got and a hint.
    """
    destination = resolve(target)
    phase = "import"

    def step(name: str) -> None:
        nonlocal phase
        phase = name
        tell(Step(name))

    def each(layer: str, number: int, total: int) -> None:
        tell(Step(phase, layer, number, total))

    with told(progress) as tell:
        step("import")
        imported = import_model(model, example_inputs, batch)
        options = Options(destination.core, _methods(explain), probe, technique, _names(exclude), each)
        lowered = run_phases(imported, options, before=lambda phase: step(phase.name))
        plans: list[MemoryPlan] = []
        executable = compile_module(lowered, destination.tvm_target(), step, plans.append)
        manifest = _manifest(imported, lowered, destination)
        memory = MemoryRow(**asdict(plans[-1]))
        return Artifact(manifest.model_copy(update={"memory": memory}), executable)


def inspect(
    model: Any,
    target: Any = "arm_cpu",
    *,
    example_inputs: tuple[Any, ...] | None = None,
    batch: int = 1,
    exclude: Sequence[str] = (),
) -> Report:
    """The report that `build` would give, without compiling."""
    destination = resolve(target)
    lowered = run_phases(import_model(model, example_inputs, batch), Options(destination.core, exclude=_names(exclude)))
    return Report(_layers(lowered), _assignment(lowered), kernels=_kernels(lowered))


def _methods(explain: Any) -> tuple[Method, ...]:
    methods = tuple(explain) if isinstance(explain, Iterable) else (explain,)
    for method in methods:
        if not isinstance(method, Method):
            hint = "as in explain=[tvm_lowbit.DeepLift()]"
            raise LowbitError("explain", "a sequence of methods such as DeepLift()", repr(explain), hint)
    return methods


def _names(exclude: Any) -> tuple[str, ...]:
    names = tuple(exclude) if isinstance(exclude, Iterable) and not isinstance(exclude, str) else (exclude,)
    if not all(isinstance(name, str) for name in names):
        raise LowbitError("exclude", "names of layers", repr(exclude))
    return names


def _layers(lowered: Any) -> tuple[LayerRow, ...]:
    return tuple(LayerRow(name=name, **row) for name, row in notes.read(lowered)["layers"].items())


def _kernels(lowered: Any) -> tuple[KernelRow, ...]:
    return tuple(KernelRow(**row) for row in notes.read(lowered)["kernels"].values())


def _assignment(lowered: Any) -> AssignmentRow:
    return AssignmentRow(**notes.read(lowered)["assignment"])


def _manifest(imported: Any, lowered: Any, destination: BuildTarget) -> Manifest:
    main, attrs = imported["main"], lowered["main"].attrs
    result = main.ret_ty
    outputs = list(result.fields) if hasattr(result, "fields") else [result]
    names = [str(name) for name in main.attrs["output_names"]]
    explanations = json.loads(str(attrs[instrument.ATTRIBUTE])) if instrument.ATTRIBUTE in attrs else []
    probes = json.loads(str(attrs[PROBES])) if PROBES in attrs else []
    inputs = tuple(_tensor(str(param.name), param.ty) for param in main.params)
    # Explanations may have added some.
    inputs += tuple(_tensor(name_of(param), param.ty) for param in lowered["main"].params[len(inputs) :])
    results = tuple(_tensor(name, ty) for name, ty in zip(names, outputs, strict=True))
    core = destination.core
    return Manifest(
        tvm=tvm.__version__,
        board=destination.name,
        core=core.name,
        mtriple=core.mtriple,
        mcpu=core.mcpu,
        features=tuple(sorted(core.features)),
        batch=inputs[0].shape[0],
        inputs=inputs,
        outputs=results,
        explanations=tuple(ExplanationRow(**row) for row in explanations),
        probes=tuple(probes),
        layers=_layers(lowered),
        kernels=_kernels(lowered),
        assignment=_assignment(lowered),
    )


def _tensor(name: str, ty: Any) -> TensorRow:
    return TensorRow(name=name, shape=tuple(int(d) for d in ty.shape), dtype=str(ty.dtype))

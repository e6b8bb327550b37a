"""The distinct problems of a model, and the layers that each stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relay_passes import notes
from schedules.cores import CoreSpec
from schedules.problem_key import problem_of
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import Options, run_phases


def problems_of(
    model: Any, core: CoreSpec, example_inputs: tuple[Any, ...] | None, batch: int, exclude: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """Keys, with the names of their layers, by the work that all of them do, most first.

    Raises
    ------
    LowbitError
        As `tvm_lowbit.build` does for the model.
    """
    lowered = run_phases(import_model(model, example_inputs, batch), Options(core, exclude=tuple(exclude)))
    found: dict[str, tuple[str, ...]] = {}
    for call in notes.read(lowered).get("kernels", {}).values():
        found[call["problem"]] = (*found.get(call["problem"], ()), call["layer"])
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]) * problem_of(item[0]).macs, item[0])))

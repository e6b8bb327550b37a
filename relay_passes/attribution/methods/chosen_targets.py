"""Targets as `main` hands them to a step: the choice of each, and the embedding of one that is given at run time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tvm import relax

from relay_passes.attribution.model import Forward, Model, chosen_output
from relay_passes.attribution.steps import Extra
from relay_passes.attribution.targets import Target
from relay_passes.ops import FAKE_QUANT, op_name, shape_of


def extras(model: Model, targets: Sequence[Target]) -> list[Extra]:
    """A step's parameters for the targets."""
    found = []
    for t, target in enumerate(targets):
        shape = shape_of(chosen_output(target, model.outputs, model.output_names))
        found.append(Extra(f"choice{t}", (shape[0],), "int64"))
        if target.needs_more:
            found.append(Extra(f"embedding{t}", shape))
    return found


def with_outputs(forward: Forward, targets: Sequence[Target], results: Sequence[Any]) -> list[Any]:
    """A step's results, and behind them, if the network is quantised, the outputs, which nobody reads.

    Gradients need no output, but low-bit weights on the way back are read from what the kernels on the way there read.
    """
    quantised = any(op_name(value) == FAKE_QUANT for _, value in forward.values)
    return [*results, *(dict.fromkeys(forward.output(target) for target in targets) if quantised else ())]


def arguments(forward: Forward, targets: Sequence[Target], choices: Sequence[Any], points: int = 1) -> list[Any]:
    """What they are in ``main``, of targets as `Method.at_run_time` gives them, for each point of a step."""
    pairs = zip(targets, choices, strict=True)
    each = [part for target, choice in pairs for part in (choice, *target.given())]
    return each if points == 1 else [forward.emit(relax.op.concat([part] * points, 0), "choices") for part in each]


def taken(targets: Sequence[Target], variables: Iterator[Any]) -> list[tuple[Target, Any]]:
    """The targets in the step, each with its choice; takes as many variables as `extras` has."""
    found = []
    for target in targets:
        choice = next(variables)
        found.append((target.taking(next(variables)) if target.needs_more else target, choice))
    return found

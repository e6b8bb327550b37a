"""The model as explanations see it: ``Model`` before they are added to it, ``Forward`` while they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow
from relay_passes.attribution.carriers.base import Carrier
from relay_passes.attribution.engine import active_variables, ancestors, reaching, rule_of, walk
from relay_passes.attribution.layers import Layers
from relay_passes.attribution.reference_run import run_reference
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.slopes import Slope
from relay_passes.attribution.targets import Target
from relay_passes.ops import literal, shape_of
from relay_passes.rewrite import EXPLANATION
from schedules.errors import LowbitError

Array = npt.NDArray[Any]
Pairs = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Model:
    """A detected module that explanations will be added to.

    Attributes
    ----------
    mod : IRModule
        Its ``main`` is what is explained.
    lower : callable
        ``lower(mod)``, the phases from here to kernels, for functions that are compiled apart.
    functions : dict
        Those functions and their kernels, by their variables: see `steps.make_step`.
    """

    mod: Any
    lower: Callable[[Any], Any]
    functions: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def params(self) -> list[Any]:
        """The parameters of ``main``."""
        return list(self.mod["main"].params)

    @cached_property
    def values(self) -> Pairs:
        """``(variable, value)`` in program order."""
        return [(b.var, b.value) for b in dataflow.bindings(self.mod["main"])]

    @cached_property
    def outputs(self) -> list[Any]:
        """The variables that ``main`` returns."""
        return outputs_of(self.mod["main"].body.body, self.values)

    @cached_property
    def layers(self) -> Layers:
        """What may be named as layers."""
        return Layers(self.params, self.values, active_variables(self.params, self.values))

    @cached_property
    def output_names(self) -> list[str]:
        """What the model calls them."""
        return [str(name) for name in (self.mod["main"].attrs or {}).get("output_names", ())]

    def reference_run(self, inputs: Sequence[Array], targets: Sequence[Target]) -> dict[int, Any]:
        """Constants of the reference run by position of the binding; parameters count as -1, -2, ...

        Parameters
        ----------
        inputs : sequence of arrays
            One for each parameter, with batch 1.
        targets : sequence of Target
            What their outputs depend on is kept.
        """
        return self._run(inputs, self._explained(targets))

    def reference_outputs(self, inputs: Sequence[Array], targets: Sequence[Target]) -> dict[int, Any]:
        """The same of the targets' outputs alone."""
        outputs = [chosen_output(target, self.outputs, self.output_names) for target in targets]
        return self._run(inputs, [i for i in self._explained(targets) if self.values[i][0] in outputs])

    def reached(self, target: Target) -> list[int]:
        """Positions of the inputs that a target's output depends on."""
        output = chosen_output(target, self.outputs, self.output_names)
        found = ancestors(output, self.values)
        return [i for i, param in enumerate(self.params) if param in found]

    def check_rules(self, targets: Sequence[Target], cuts: Sequence[Any] | None = None) -> None:
        """Find a missing rule on the ways back to the inputs, or to cuts, before anything is compiled."""
        needed = reaching(self.params if cuts is None else cuts, self.values)
        for var, value in (self.values[i] for i in self._explained(targets)):
            if any(argument in needed for argument in dataflow.variables(value)):
                rule_of(var, value)

    def _explained(self, targets: Sequence[Target]) -> list[int]:
        active = active_variables(self.params, self.values)
        outputs = [chosen_output(target, self.outputs, self.output_names) for target in targets]
        explained = set().union(*(ancestors(output, self.values) for output in outputs))
        return [
            i
            for i, (var, value) in enumerate(self.values)
            if var in active and var in explained and not isinstance(value, relax.Var | relax.Tuple)
        ]

    def _run(self, inputs: Sequence[Array], wanted: list[int]) -> dict[int, Any]:
        batches = [np.repeat(x, shape_of(p)[0], axis=0) for x, p in zip(inputs, self.params, strict=True)]
        arrays = run_reference(self.mod, batches, wanted)
        constants = {i: literal(_once(array)) for i, array in zip(wanted, arrays, strict=True)}
        return constants | {-1 - i: literal(x) for i, x in enumerate(inputs)}


def chosen_output(target: Target, outputs: Sequence[Any], names: Sequence[str]) -> Any:
    """The output that a target is an element of: the first, unless it names another."""
    wanted = getattr(target, "output", None)
    if wanted is not None and wanted not in names:
        raise LowbitError("target", f"one of the outputs {', '.join(names)}", repr(wanted))
    return outputs[list(names).index(wanted) if wanted is not None else 0]


def outputs_of(body: Any, values: Pairs) -> list[Any]:
    """The variables that a function returns."""
    bound = dict(values)
    while isinstance(bound.get(body), relax.Var | relax.Tuple):
        body = bound[body]
    return list(body.fields) if isinstance(body, relax.Tuple) else [body]


def _once(array: Array) -> Array:
    """One row where all rows are equal (the batch, as a rule): it broadcasts to the same."""
    return array[:1] if array.ndim and np.array_equal(array, np.broadcast_to(array[:1], array.shape)) else array


@dataclass(frozen=True)
class Forward:
    """The program being written, its forward part done.

    Attributes
    ----------
    scope : Scope
        Where expressions are bound.
    params : list of Var
        The model's inputs.
    values : list of (Var, expression)
        The forward program, in order.
    at : sequence
        What each binding of the module before has become, by position.
    outputs : list of Var
        The model's own outputs.
    output_names : sequence of str
        Their names.
    extra : sequence of Var
        Parameters that were added for explanations.
    computed : set of str
        Names of what is computed like the model itself, in integers where it is quantised.
    """

    scope: dataflow.Scope
    params: list[Any]
    values: Pairs
    at: Sequence[Any]
    outputs: list[Any]
    output_names: Sequence[str] = ()
    extra: Sequence[Any] = ()
    computed: set[str] = dataclasses.field(default_factory=set)

    def emit(self, expr: Any, name: str = "step") -> Any:
        """Bind an expression that belongs to an explanation."""
        return self.scope.emit(expr, f"{EXPLANATION}{name}")

    @cached_property
    def active(self) -> frozenset[Any]:
        """The variables that depend on the inputs."""
        return active_variables(self.params, self.values)

    def references(self, run: Mapping[int, Any]) -> dict[Any, Any]:
        """What `Model.reference_run` gave, by variable."""
        return {self.params[-1 - i] if i < 0 else self.at[i]: constant for i, constant in run.items()}

    def output(self, target: Target) -> Any:
        """The output that a target is an element of.

        Raises
        ------
        LowbitError
            If there is none of that name, or it does not depend on the inputs.
        """
        found = chosen_output(target, self.outputs, self.output_names)
        if found not in self.active:
            raise LowbitError("explain", "an output that depends on the first input", "one that does not")
        target.check(shape_of(found))
        return found

    @cached_property
    def layers(self) -> Layers:
        """What may be named as layers."""
        return Layers(self.params, self.values, self.active)

    def layer(self, name: str) -> Any:
        """The variable of a named layer; see `Layers.find`."""
        return self.layers.find(name)

    def named(self, names: Sequence[str], output: Any) -> dict[str, Any]:
        """The variables of named layers; see `Layers.named`."""
        return self.layers.named(names, output)

    def separates(self, cut: Any, output: Any) -> bool:
        """Whether all ways from the inputs to the output pass a value, so that its shares must sum up."""
        return cut is output or output not in reaching(self.params, self.values, cut)

    def context(
        self, name: str, slope: Slope, carrier: Carrier, references: Mapping[Any, Any] | None = None
    ) -> Context:
        """A walk's context; what it emits is named after the explanation."""
        return Context(
            self.scope, dict(self.values), references or {}, self.active, slope, carrier, f"{EXPLANATION}{name}/"
        )

    def walk(self, context: Context, output: Any, seed: Any, cuts: Sequence[Any]) -> dict[Any, Any]:
        """What the carrier gives at the cuts.

        Raises
        ------
        LowbitError
            If the output depends on none of them.
        """
        found = walk(seed, output, self.values, context, cuts)
        if not found:
            names = ", ".join(dataflow.name_of(cut) for cut in cuts)
            raise LowbitError("explain", f"an output that depends on {names}", "one that does not")
        return found


@dataclass(frozen=True)
class Part:
    """One array that an explanation gives: ``field`` of the first input, or of a named layer.

    ``columns`` names what stands along its last axis, where that needs names.
    """

    field: str
    value: Any = dataclasses.field(repr=False)
    layer: str = ""
    columns: tuple[str, ...] = ()

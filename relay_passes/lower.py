"""``LowerLowbit``: a ``dot`` gets a technique and packed weights, and its ``requantize`` as an epilogue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te

from relay_passes import dataflow, layouts, notes, ops
from relay_passes.compose import compose_requantize
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.problem import dot_problem
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem, Thresholds
from schedules.layout import Layout
from schedules.limits import limit_cycles
from schedules.requantize import requantize_kernel
from schedules.techniques import Choice, select


@dataclass(frozen=True)
class _Plan:
    """What becomes of one ``dot``: technique, constants, and whether its only reader is a ``requantize``."""

    layer: str
    problem: DotProblem
    choice: Choice
    constants: list[npt.NDArray[Any]]
    weights: npt.NDArray[np.uint8]
    fused: bool

    @property
    def layout(self) -> Layout:
        return self.choice.technique.in_layout(self.problem)


def lower_lowbit(
    mod: Any, core: CoreSpec, technique: str | None = None, each: dataflow.Each = dataflow.no_layers
) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After `rewrite.rewrite_lowbit`.
    core : CoreSpec
        Which core to choose techniques for.
    technique : str, optional
        Use this technique wherever it does not decline.
    each : callable, optional
        Told the layers, one for each kernel.

    Returns
    -------
    IRModule
        Kernels are PrimFuncs called by ``call_tir``. Notes: topic ``layers`` gains technique, why, and bytes; topic
        ``kernels`` tells of each call, in the order they run, whose it is and how much it computes.
    """
    mod = compose_requantize(mod)
    lowering = _Lowering(mod, core, technique, each)
    lowered = notes.add(dataflow.rebuild(mod, lowering.visit), "layers", lowering.layers)
    return notes.add(lowered, "kernels", {str(turn): call for turn, call in enumerate(lowering.calls)})


class _Lowering:
    """The state of one run."""

    def __init__(self, mod: Any, core: CoreSpec, technique: str | None, each: dataflow.Each) -> None:
        self.core, self.each, self.kernels = core, each, 0
        self.layers: dict[str, dict[str, Any]] = notes.read(mod).get("layers", {})
        self.readers = dataflow.readers(mod["main"])
        self.values = {b.var: b.value for b in dataflow.bindings(mod["main"])}
        self.plans = {
            var: self._plan(var, value, technique) for var, value in self.values.items() if op_name(value) == ops.DOT
        }
        self.by_weights = {_key(plan.weights): plan for plan in self.plans.values()}
        # What each call of a kernel is: layers that are alike share one.
        self.calls: list[dict[str, Any]] = []
        # New logical variable -> its physical forms.
        self.physical: dict[Any, dict[Layout, Any]] = {}

    def _plan(self, var: Any, call: Any, technique: str | None) -> _Plan:
        weights, offset = constant(call.args[1]), constant(call.args[2])
        problem = dot_problem(shape_of(call.args[0]), weights.shape, call.attrs).knowing(weights, offset)
        choice = select(problem, self.core, technique)
        constants = choice.technique.constants(problem, weights, offset)
        only = self.readers[var]
        fused = len(only) == 1 and only[0] is not None and op_name(self.values[only[0]]) == ops.REQUANTIZE
        fused = fused and self.values[only[0]].args[0].same_as(var)
        return _Plan(str(call.attrs["layer"]), problem, choice, constants, weights, fused)

    def visit(self, var: Any, value: Any, scope: dataflow.Scope) -> Any:
        """See `dataflow.rebuild`."""
        operator, name = op_name(value), dataflow.name_of(var)
        if operator == ops.DOT:
            plan = self.plans[var]
            return value if plan.fused else self._kernel(plan, value, None, var, name, scope)
        if operator == ops.REQUANTIZE:
            if op_name(value.args[0]) == ops.DOT:
                source = self.values[var].args[0]
                return self._kernel(self.plans[source], value.args[0], value, var, name, scope)
            if self.values[var].args[0] in self.plans:
                self._count(self.plans[self.values[var].args[0]].layer, _tables(value))
            return self._requantize(value, name, scope)
        if operator == ops.DEQUANTIZE and constant(value.args[0]) is not None:
            return self._weight_values(value, name, scope)
        return dataflow.keep(var, value, scope)

    def _in_layout(self, codes: Any, layout: Layout, name: str, scope: dataflow.Scope) -> Any:
        """The physical form of codes in a layout, packed if there is none yet."""
        forms = self.physical.setdefault(codes, {})
        if layout not in forms:
            forms[layout] = layouts.pack(scope, codes, layout, f"{name}/packed")
        return forms[layout]

    def _wanted(self, var: Any) -> Layout:
        """The layout that the first low-bit reader of a variable of the old program reads."""
        plans = (self.plans[reader] for reader in self.readers.get(var, []) if reader in self.plans)
        return next((plan.layout for plan in plans), Layout())

    def _kernel(self, plan: _Plan, dot: Any, requantize: Any, var: Any, name: str, scope: dataflow.Scope) -> Any:
        technique, problem = plan.choice.technique, plan.problem
        self.kernels += 1
        self.each(plan.layer, self.kernels, len(self.plans))
        args = [self._in_layout(dot.args[0], plan.layout, plan.layer, scope), *map(literal, plan.constants)]
        shape = tuple(int(d) for d in dot.attrs["out_shape"])
        layout, dtype, size = Layout(), "int32", sum(c.nbytes for c in plan.constants)
        if requantize is not None:
            layout, dtype = self._wanted(var), "uint8"
            tables = _tables(requantize)
            epilogue = _thresholds(requantize, layout)
            args += tables
            size += sum(constant(t).nbytes for t in tables)
            if epilogue.side_bits:
                side = requantize.args[-1]
                side_layout = next(iter(self.physical.get(side, {})), Layout())
                args.append(self._in_layout(side, side_layout, plan.layer, scope))
                epilogue = replace(epilogue, side=side_layout)
            problem = replace(problem, epilogue=epilogue)
        kernel = technique.build(problem, technique.knobs(problem, self.core), self.core)
        out = layout.shape(*layouts.nhwc_shape(shape))
        packed = _call(scope, kernel, f"{technique.name}_{plan.layer}", args, out, dtype, f"{name}/physical")
        result = layouts.unpack(scope, packed, layout, shape, dtype, name)
        self.physical[result] = {layout: packed}
        symbol = str(scope.builder.lookup_binding(packed).args[0].name_hint)
        limit = limit_cycles(plan.problem, technique.name, self.core)
        work = {"bits": problem.name, "technique": technique.name, "macs": problem.macs, "limit": limit}
        self.calls.append({"symbol": symbol, "layer": plan.layer, **work})
        self._report(plan, size)
        return result

    def _report(self, plan: _Plan, size: int) -> None:
        """Add a kernel to its layer's row: a transposed convolution has one for each phase of its stride."""
        row, technique = self.layers.get(plan.layer, {}), plan.choice.technique.name
        others = [name for name in row.get("technique", "").split(", ") if name and name != technique]
        self.layers[plan.layer] = row | {
            "technique": ", ".join([*others, technique]),
            "why": plan.choice.why,
            "bytes": row.get("bytes", 0) + size,
            "float_bytes": row.get("float_bytes", 0) + plan.problem.out_channels * plan.problem.k * 4,
        }

    def _count(self, layer: str, tables: Any) -> None:
        """Add the bytes of an epilogue that stays a kernel of its own to its layer's."""
        row = self.layers[layer]
        self.layers[layer] = row | {"bytes": row["bytes"] + sum(constant(t).nbytes for t in tables)}

    def _requantize(self, call: Any, name: str, scope: dataflow.Scope) -> Any:
        shape = shape_of(call)
        spec = _thresholds(call, Layout())
        tables = str(call.args[1].ty.dtype)
        kernel = requantize_kernel(shape, str(call.args[0].ty.dtype), int(call.attrs["axis"]), spec, tables)
        return _call(scope, kernel, "requantize", list(call.args), shape, "uint8", name)

    def _weight_values(self, call: Any, name: str, scope: dataflow.Scope) -> Any:
        """Float weights for an explanation, unpacked at run time from the constant that the forward kernel reads."""
        codes, spec = constant(call.args[0]), quant_spec(call)
        views = [(codes.transpose(axes).reshape(shape), axes) for axes, shape in _as_kernels_see(codes.shape)]
        plans = ((self.by_weights.get(_key(np.ascontiguousarray(view))), axes) for view, axes in views)
        plan, axes = next(((plan, axes) for plan, axes in plans if plan is not None), (None, ()))
        if plan is None:
            return scope.emit(call, name)
        technique = plan.choice.technique

        def compute(packed: Any) -> Any:
            def element(*i: Any) -> Any:
                o, c, *taps = (i[axis] for axis in axes)
                y, x = (0,) * (2 - len(taps)) + tuple(taps)
                return technique.weight_at(plan.problem, lambda *at: packed(*at), o, c, y, x)

            return te.compute(codes.shape, element, name="unpack_weights")

        unpacked = scope.builder.call_te(compute, literal(plan.constants[0]), primfunc_name_hint="unpack_weights")
        return scope.emit(ops.dequantize(scope.emit(unpacked, f"{name}/codes"), spec), name)


def _key(codes: npt.NDArray[np.uint8]) -> tuple[tuple[int, ...], bytes]:
    return codes.shape, codes.tobytes()


def _as_kernels_see(shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to take weights as ``(O, C, kh, kw)``: the order of their axes, and the shape after that.

    Matrices may stand on the right of a product or on its left; a kernel of one dimension is of height 1.
    """
    if len(shape) == 2:
        return [((1, 0), (*shape[::-1], 1, 1)), ((0, 1), (*shape, 1, 1))]
    if len(shape) not in (3, 4):
        return []
    return [(tuple(range(len(shape))), (*shape[:2], *(1,) * (4 - len(shape)), *shape[2:]))]


def _thresholds(call: Any, layout: Layout) -> Thresholds:
    counts = [shape_of(table)[1] for table in _tables(call)[::2]]  # rises and, if there are any, falls
    return Thresholds(int(call.attrs["bits"]), counts[0], int(call.attrs["side_bits"]), layout, falls=sum(counts[1:]))


def _tables(call: Any) -> list[Any]:
    """The constants of a ``requantize``: rises, flip and, if there are any, falls."""
    return list(call.args[1 : 1 + int(call.attrs["tables"])])


def _call(
    scope: dataflow.Scope, kernel: Any, hint: str, args: list[Any], shape: tuple[int, ...], dtype: str, name: str
) -> Any:
    clean = "".join(c if c.isalnum() else "_" for c in hint)
    gv = scope.builder.add_func(kernel.without_attr("global_symbol"), clean)
    return scope.emit(relax.call_tir(gv, args, relax.TensorType(list(shape), dtype)), name)

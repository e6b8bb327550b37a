"""``LowerLowbit``: a ``dot`` gets a technique and packed weights, and its ``requantize`` as an epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te

from relay_passes import dataflow, layouts, notes, ops
from relay_passes.assign import PLAIN
from relay_passes.chosen import Chosen
from relay_passes.compose import code_bits, compose_requantize
from relay_passes.epilogues import fitted, fitted_to_codes, tables_of, thresholds_of
from relay_passes.forms import Forms, call_kernel, joined, pooled, taken
from relay_passes.lower_float import FloatKernels
from relay_passes.network import CONCAT, TAKE, Product, Survey, techniques
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.problem import dot_problem
from schedules import tuned_rows
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem, Thresholds
from schedules.layout import Layout
from schedules.limits import limit_cycles
from schedules.moving import requantize_pixels
from schedules.problem_key import problem_key
from schedules.requantize import requantize_kernel
from schedules.techniques import Choice


@dataclass(frozen=True)
class _Plan:
    """What becomes of one ``dot``: technique, constants, the ``requantize`` that is its only reader, cycles saved."""

    layer: str
    problem: DotProblem
    choice: Choice
    constants: list[npt.NDArray[Any]]
    weights: npt.NDArray[np.uint8]
    codes: Any | None
    saved: float | None

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
        Kernels are PrimFuncs called by ``call_tir``. Notes: topic ``layers`` gains technique, why, layouts,
        cycles saved and bytes; topic ``assignment`` has `Chosen.summary`; topic ``kernels`` tells of each call, in the
        order they run, whose it is and how much it computes.
    """
    mod = compose_requantize(mod)
    lowering = _Lowering(mod, core, technique, each)
    lowered = notes.add(dataflow.rebuild(mod, lowering.visit), "layers", lowering.layers)
    lowered = notes.add(lowered, "assignment", lowering.chosen.summary())
    return notes.add(lowered, "kernels", {str(turn): call for turn, call in enumerate(lowering.calls)})


class _Lowering:
    """The state of one run."""

    def __init__(self, mod: Any, core: CoreSpec, technique: str | None, each: dataflow.Each) -> None:
        self.core, self.each, self.kernels = core, each, 0
        self.layers: dict[str, dict[str, Any]] = notes.read(mod).get("layers", {})
        self.times: int = notes.read(mod).get("items", {}).get("times", 1)
        self.readers = dataflow.readers(mod["main"])
        self.values = {b.var: b.value for b in dataflow.bindings(mod["main"])}
        dots = [(var, value) for var, value in self.values.items() if op_name(value) == ops.DOT]
        products = {var: self._product(var, value, technique) for var, value in dots}
        self.survey = Survey(mod, products, core)
        network = self.survey.network()
        self.chosen = Chosen(network)
        self.plans = {var: self._plan(var, self.values[var], product) for var, product in products.items()}
        self.by_weights = {_key(plan.weights): plan for plan in self.plans.values()}
        # What each call of a kernel is: layers that are alike share one.
        self.calls: list[dict[str, Any]] = []
        self.forms: Forms | None = None
        self.floats = FloatKernels(core, self.values, self._unpacking)

    def _product(self, var: Any, call: Any, technique: str | None) -> Product:
        weights, offset = constant(call.args[1]), constant(call.args[2])
        codes, times = shape_of(call.args[0]), self.times
        problem = dot_problem(codes, weights.shape, call.attrs).knowing(weights, offset)
        # What takes several items at once keeps its weights as what takes one does: the library holds them once.
        one = dot_problem((-(-codes[0] // times), *codes[1:]), weights.shape, call.attrs).knowing(weights, offset)
        choice = tuned_rows.choose(one, self.core, technique)
        only = self.readers[var]
        fused = len(only) == 1 and only[0] is not None and op_name(self.values[only[0]]) == ops.REQUANTIZE
        fused = fused and self.values[only[0]].args[0].same_as(var)
        costs = [(t, cycles * times) for t, cycles in techniques(one, self.core, choice)]
        return Product(problem, choice, costs, only[0] if fused else None)

    def _plan(self, var: Any, call: Any, product: Product) -> _Plan:
        weights, offset = constant(call.args[1]), constant(call.args[2])
        name = self.survey.name(var)
        technique = product.techniques[self.chosen.best.picks[name]][0]
        constants = technique.constants(product.problem, weights, offset)
        saved, why = self.chosen.saved(name), product.choice.why
        if saved is not None:
            why += f"; {technique.name} for the whole network, whose conversions then cost {saved:,.0f} cycles less"
        choice = Choice(technique, why)
        return _Plan(str(call.attrs["layer"]), product.problem, choice, constants, weights, product.codes, saved)

    def visit(self, var: Any, value: Any, scope: dataflow.Scope) -> Any:
        """See `dataflow.rebuild`."""
        self.forms = self.forms or Forms(scope)
        operator, name = op_name(value), dataflow.name_of(var)
        if operator == ops.DOT:
            plan = self.plans[var]
            return value if plan.codes is not None else self._kernel(plan, value, None, var, name, scope)
        if operator == ops.REQUANTIZE:
            if op_name(value.args[0]) == ops.DOT:
                source = self.values[var].args[0]
                return self._kernel(self.plans[source], value.args[0], value, var, name, scope)
            if self.values[var].args[0] in self.plans:
                self._count(self.plans[self.values[var].args[0]].layer, tables_of(value))
            if var in self.survey.physical:
                return self._requantize_pixels(var, value, name, scope)
            return self._requantize(value, name, scope)
        if var in self.survey.physical:
            written = self._written(var)
            if operator == CONCAT:
                return joined(self.forms, value, written, name)
            if operator == TAKE:
                return taken(self.forms, value, written, name)
            source = self.chosen.read(self.survey.name(var), self.survey.name(self.values[var].args[0]))
            return pooled(self.forms, value, source, written, name)
        if operator == ops.DEQUANTIZE and constant(value.args[0]) is not None:
            return self._weight_values(value, name, scope)
        if operator in (ops.QUANTIZE, ops.SCALE_ACCUMULATORS) and self.floats.width is not None:
            value = ops.with_fma(value)
        product = self.floats.lowered(var, value, name, scope)
        return dataflow.keep(var, value, scope) if product is None else product

    def _written(self, var: Any) -> Layout:
        """The layout that a variable of the old program is written in."""
        form = self.chosen.best.forms[self.survey.name(var)]
        assert form is not None
        return form

    def _side(self, var: Any, requantize: Any, epilogue: Thresholds) -> tuple[Thresholds, list[Any]]:
        """The epilogue with the layout of its second operand, and that operand, if it has one."""
        side = self.survey.side(var)
        if side is None or self.forms is None:
            return epilogue, []
        layout = self.chosen.read(f"side of {self.survey.name(var)}", self.survey.name(side))
        args = [self.forms.get(requantize.args[-1], layout, dataflow.name_of(var))]
        return replace(epilogue, side=layout), args

    def _kernel(self, plan: _Plan, dot: Any, requantize: Any, var: Any, name: str, scope: dataflow.Scope) -> Any:
        assert self.forms is not None
        technique, problem = plan.choice.technique, plan.problem
        self.kernels += 1
        self.each(plan.layer, self.kernels, len(self.plans))
        args = [self.forms.get(dot.args[0], plan.layout, plan.layer), *map(literal, plan.constants)]
        shape = tuple(int(d) for d in dot.attrs["out_shape"])
        layout, dtype, size, why = Layout(), "int32", sum(c.nbytes for c in plan.constants), ""
        if requantize is not None:
            layout, dtype = self._written(var), "uint8"
            epilogue, side = self._side(var, requantize, thresholds_of(requantize, layout))
            epilogue, tables, why = fitted(epilogue, requantize, problem, plan.weights, constant(dot.args[2]))
            size += sum(constant(t).nbytes for t in tables)
            args += [*tables, *side]
            problem = replace(problem, epilogue=epilogue)
        knobs = tuned_rows.knobs(technique, problem, self.core)
        kernel = technique.build(problem, knobs, self.core)
        out = layout.shape(*layouts.nhwc_shape(shape))
        packed = call_kernel(scope, kernel, f"{technique.name}_{plan.layer}", args, out, dtype, f"{name}/physical")
        result = self.forms.produced(packed, layout, shape, name, self.survey.kept(var))
        symbol = str(scope.builder.lookup_binding(packed).args[0].name_hint)
        limit = limit_cycles(plan.problem, technique.name, self.core)
        work = {"bits": problem.name, "technique": technique.name, "macs": problem.macs, "limit": limit}
        call = {"symbol": symbol, "layer": plan.layer, "problem": problem_key(problem), **work}
        self.calls.append({**call, "parallel": bool(knobs["parallel"])})
        self._report(plan, size, layout if requantize is not None else None, why)
        return result

    def _requantize_pixels(self, var: Any, call: Any, name: str, scope: dataflow.Scope) -> Any:
        """Codes or accumulators that a kernel wrote, where they lie."""
        assert self.forms is not None
        layout, shape = self._written(var), layouts.nhwc_shape(shape_of(call))
        epilogue, side = self._side(var, call, thresholds_of(call, layout))
        source = self.values[var].args[0]
        bits = code_bits(self.values, source) if str(source.ty.dtype) == "uint8" else None
        epilogue, tables = fitted_to_codes(epilogue, call, bits)
        values = self.forms.get(call.args[0], PLAIN, name)
        kernel = requantize_pixels(shape, str(call.args[0].ty.dtype), epilogue, str(call.args[1].ty.dtype))
        args = [values, *tables, *side]
        packed = call_kernel(scope, kernel, "requantize", args, layout.shape(*shape), "uint8", f"{name}/physical")
        return self.forms.produced(packed, layout, shape_of(call), name, self.survey.kept(var))

    def _report(self, plan: _Plan, size: int, written: Layout | None, why: str) -> None:
        """Add a kernel to its layer's row: a transposed convolution has one for each phase of its stride."""
        row, technique = self.layers.get(plan.layer, {}), plan.choice.technique.name
        others = [name for name in row.get("technique", "").split(", ") if name and name != technique]
        ways = f"{plan.layout} > {written or 'accumulators'}"
        self.layers[plan.layer] = row | {
            "technique": ", ".join([*others, technique]),
            "why": plan.choice.why + why,
            "layouts": ways,
            "saved": None if plan.saved is None else round((row.get("saved") or 0) + plan.saved),
            "bytes": row.get("bytes", 0) + size,
            "float_bytes": row.get("float_bytes", 0) + plan.problem.out_channels * plan.problem.k * 4,
        }

    def _count(self, layer: str, tables: Any) -> None:
        """Add the bytes of an epilogue that stays a kernel of its own to its layer's."""
        row = self.layers[layer]
        self.layers[layer] = row | {"bytes": row["bytes"] + sum(constant(t).nbytes for t in tables)}

    def _requantize(self, call: Any, name: str, scope: dataflow.Scope) -> Any:
        shape = shape_of(call)
        spec = thresholds_of(call, Layout())
        tables = str(call.args[1].ty.dtype)
        kernel = requantize_kernel(shape, str(call.args[0].ty.dtype), int(call.attrs["axis"]), spec, tables)
        return call_kernel(scope, kernel, "requantize", list(call.args), shape, "uint8", name)

    def _unpacking(self, call: Any) -> tuple[npt.NDArray[Any], Callable[..., Any]] | None:
        """For float weights of an explanation: the constant that the forward kernel reads, and one code of it."""
        codes = constant(call.args[0])
        views = [(codes.transpose(axes).reshape(shape), axes) for axes, shape in _as_kernels_see(codes.shape)]
        plans = ((self.by_weights.get(_key(np.ascontiguousarray(view))), axes) for view, axes in views)
        plan, axes = next(((plan, axes) for plan, axes in plans if plan is not None), (None, ()))
        if plan is None:
            return None
        technique, problem = plan.choice.technique, plan.problem

        def code_at(at: Callable[..., Any], *i: Any) -> Any:
            o, c, *taps = (i[axis] for axis in axes)
            y, x = (0,) * (2 - len(taps)) + tuple(taps)
            return technique.weight_at(problem, at, o, c, y, x)

        return plan.constants[0], code_at

    def _weight_values(self, call: Any, name: str, scope: dataflow.Scope) -> Any:
        """Float weights for an explanation, unpacked at run time from the constant that the forward kernel reads."""
        found = self._unpacking(call)
        if found is None:
            return scope.emit(call, name)
        packed, code_at = found

        def compute(source: Any) -> Any:
            return te.compute(shape_of(call), lambda *i: code_at(lambda *at: source(*at), *i), name="unpack_weights")

        unpacked = scope.builder.call_te(compute, literal(packed), primfunc_name_hint="unpack_weights")
        return scope.emit(ops.dequantize(scope.emit(unpacked, f"{name}/codes"), quant_spec(call)), name)


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

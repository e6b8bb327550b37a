"""The program as `assign` sees it: which kernels there are, what they may read and write, and what each costs.

Kernels of this project work on physical layouts: products, with or without an epilogue; and, where their input was
written by one of these, quantisers of codes, largest values of windows, joins of channels, and rows or columns by
constant indices. What else reads codes is left to TVM and reads them in the graph's own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, notes, ops
from relay_passes.assign import PLAIN, Form, Network, Node, Option, Tensor
from relay_passes.layouts import nhwc_shape
from relay_passes.ops import op_name, shape_of
from schedules import conversions, tuned_rows
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.layout import Layout
from schedules.techniques import TECHNIQUES, Choice, Technique

POOL, CONCAT, TAKE = "relax.nn.max_pool2d", "relax.concat", "relax.take"


@dataclass(frozen=True)
class Product:
    """A ``dot``: its problem, what `select` says, the techniques that may be taken, and the variable of its codes."""

    problem: DotProblem
    choice: Choice
    techniques: Sequence[tuple[Technique, float]]
    codes: Any | None


def techniques(problem: DotProblem, core: CoreSpec, choice: Choice) -> list[tuple[Technique, float]]:
    """The techniques that may be taken for a problem with their estimated cycles; only the chosen one if asked for."""
    asked = choice.why == "asked for"
    found = [choice.technique] if asked else [t for t in TECHNIQUES.values() if t.declines(problem, core) is None]
    costs = [(t, tuned_rows.cycles(t, problem, core)) for t in found]
    # One that must be taken, however dear, weighs nothing.
    dear = float("inf")
    return [(t, 0.0 if cost == dear else cost) for t, cost in costs if t is choice.technique or cost != dear]


class Survey:
    """What `assign` needs to know of a program.

    Parameters
    ----------
    mod : IRModule
        After `compose.compose_requantize`.
    products : mapping
        Variables of ``dot`` to what is known of them.
    core : CoreSpec
        Which core to count cycles of.
    """

    def __init__(self, mod: Any, products: Mapping[Any, Product], core: CoreSpec) -> None:
        self.products, self.core = products, core
        self.explained = bool(notes.read(mod).get("explanation"))
        self.values = {b.var: b.value for b in dataflow.bindings(mod["main"])}
        self.readers = dataflow.readers(mod["main"])
        self.codes = {p.codes: dot for dot, p in products.items() if p.codes is not None}
        self.numbers = {var: i for i, var in enumerate(self.values)}
        # Variables that a kernel of this project writes, and what they read in which form.
        self.physical: set[Any] = set()
        for var, value in self.values.items():
            if var in self.codes or self._moves(var, value):
                self.physical.add(var)

    def name(self, var: Any) -> str:
        """A name of a variable's tensor, and its node's."""
        number = self.numbers.setdefault(var, len(self.numbers))
        return f"{dataflow.name_of(var) if isinstance(var, relax.Var) else 'constant'} {number}"

    def _moves(self, var: Any, value: Any) -> bool:
        operator = op_name(value)
        if operator == CONCAT:
            fields = value.args[0].fields
            return int(value.attrs.axis or 0) == 1 and all(field in self.physical for field in fields)
        if operator == POOL:
            return value.args[0] in self.physical and value.attrs.layout == value.attrs.out_layout == "NCHW"
        if operator == TAKE:
            whole = value.args[0] in self.physical and len(shape_of(var)) == 4 and int(value.attrs.axis or 0) in (2, 3)
            return whole and _within(ops.constant(value.args[1]), shape_of(value.args[0])[int(value.attrs.axis)])
        if operator != ops.REQUANTIZE or int(value.attrs["axis"]) != 1 or len(shape_of(value)) not in (2, 3, 4):
            return False
        return value.args[0] in self.physical or value.args[0] in self.products

    def side(self, var: Any) -> Any | None:
        """The second operand of a quantiser of codes or accumulators."""
        value = self.values[var]
        return value.args[-1] if op_name(value) == ops.REQUANTIZE and int(value.attrs["side_bits"]) else None

    def kept(self, var: Any) -> int:
        """In how many bits an explanation finds what a kernel wrote and other kernels read before; 0 if as it is."""
        operators = [op_name(self.values[r]) if r is not None else "" for r in self.readers[var]]
        early = sum(operator in (ops.DOT, ops.REQUANTIZE, POOL) for operator in operators)
        if not self.explained or not 0 < early < len(operators) or len(shape_of(var)) < 3:
            return 0
        if op_name(self.values[var]) == ops.REQUANTIZE:
            bits = int(self.values[var].attrs["bits"])
            return bits if bits in (1, 2, 4) else 0
        codes, offset = (ops.constant(argument).astype(np.int64) for argument in self.values[var].args[1:3])
        problem = self.products[var].problem
        weights = problem.w.multiplier * codes.reshape(len(codes), -1) + offset[:, None]
        return 16 if np.abs(weights).sum(1).max() * max(map(abs, problem.a.values)) < 2**15 else 0

    def sources(self, var: Any) -> list[Any]:
        """The tensors of codes that a moving kernel reads, second operands aside."""
        value = self.values[var]
        if op_name(value) == CONCAT:
            return list(dict.fromkeys(value.args[0].fields))
        return [value.args[0]] if value.args[0] in self.physical else []

    def network(self) -> Network:
        """The nodes and tensors, in the program's order."""
        layouts = self._layouts()
        nodes = [node for var, value in self.values.items() for node in self._nodes(var, value, layouts)]
        read = {name for node in nodes for option in node.options for name in option.reads}
        outside = [var for var in layouts if self.name(var) in read and var not in self.physical]
        nodes += [self._graph(var) for var in self.physical if self._read_by_graph(var)]
        tensors = [self._tensor(var, layouts.get(var, [])) for var in (*outside, *self.physical)]
        return Network(nodes, sorted(tensors, key=lambda t: t.name))

    def _layouts(self) -> dict[Any, list[Layout]]:
        """Other layouts than plain codes that readers of each tensor may want."""
        found: dict[Any, dict[Layout, None]] = {}
        for dot, product in self.products.items():
            kinds = [technique.in_layout(product.problem) for technique, _ in product.techniques]
            found.setdefault(self.values[dot].args[0], {}).update(dict.fromkeys(kinds))
        for var in reversed(self.values):
            if op_name(self.values[var]) == POOL and var in self.physical:
                single = [layout for layout in found.get(var, {}) if layout.kind == "planes" and layout.bits == 1]
                found.setdefault(self.values[var].args[0], {}).update(dict.fromkeys(single))
            side = self.side(var) if var in self.physical else None
            if side is not None:
                found.setdefault(side, {})
        return {var: [layout for layout in layouts if layout != PLAIN] for var, layouts in found.items()}

    def _nodes(self, var: Any, value: Any, layouts: Mapping[Any, list[Layout]]) -> list[Node]:
        if var in self.products:
            product, source = self.products[var], self.name(value.args[0])
            options = [
                Option(t.name, cycles, {source: t.in_layout(product.problem)}) for t, cycles in product.techniques
            ]
            codes = product.codes
            return [Node(self.name(var), options, None if codes is None else self.name(codes))]
        if var not in self.physical:
            return []
        nodes = []
        side = self.side(var)
        if side is not None:
            shape = nhwc_shape(shape_of(side))
            forms = [PLAIN, *layouts.get(side, [])]
            reads = [Option(str(f), conversions.read_cycles(shape, f, self.core), {self.name(side): f}) for f in forms]
            nodes.append(Node(f"side of {self.name(var)}", reads))
        if var in self.codes:
            return nodes
        name = self.name(var)
        sources = dict.fromkeys(map(self.name, self.sources(var)), PLAIN)
        options = [Option("plain", 0.0, sources)]
        if op_name(value) == POOL:
            shape, taps = nhwc_shape(shape_of(value)), int(value.attrs.pool_size[0]) * int(value.attrs.pool_size[1])
            ways = [PLAIN, *(layout for layout in layouts.get(var, []) if layout.kind == "planes" and layout.bits == 1)]
            (source,) = sources
            options = [
                Option(
                    layout.kind,
                    conversions.pool_cycles(shape, taps, layout, self.core),
                    {source: layout},
                    None if layout == PLAIN else frozenset({layout}),
                )
                for layout in ways
            ]
        return [*nodes, Node(name, options, name)]

    def _read_by_graph(self, var: Any) -> bool:
        """Whether the function's result, or an operator that is left to TVM, reads a tensor."""

        def taken(reader: Any) -> bool:
            if reader in self.products:
                return True
            if reader not in self.physical:
                return False
            side = self.side(reader)
            return (side is not None and side.same_as(var)) or any(s.same_as(var) for s in self.sources(reader))

        return any(reader is None or not taken(reader) for reader in self.readers.get(var, []))

    def _graph(self, var: Any) -> Node:
        return Node(f"graph reads {self.name(var)}", [Option("graph", 0.0, {self.name(var): None})])

    def _tensor(self, var: Any, layouts: Sequence[Layout]) -> Tensor:
        shape, core = nhwc_shape(shape_of(var)), self.core
        made: dict[Form, float] = {layout: conversions.repack_cycles(shape, PLAIN, layout, core) for layout in layouts}
        if var not in self.physical:
            gather = conversions.gather_cycles(shape, core)
            return Tensor(self.name(var), {None: 0.0}, {**made, None: 0.0}, {None: gather})
        plain: dict[Form, float] = {layout: conversions.repack_cycles(shape, layout, PLAIN, core) for layout in layouts}
        written: dict[Form, float] = {f: conversions.write_cycles(shape, f, core) for f in (PLAIN, *layouts)}
        return Tensor(self.name(var), written, {**made, None: conversions.scatter_cycles(shape, core)}, plain)


def _within(indices: Any, extent: int) -> bool:
    """Whether constant indices name places of an axis."""
    return indices is not None and indices.ndim == 1 and bool(np.all((indices >= 0) & (indices < extent)))

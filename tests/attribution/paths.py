"""All paths of a small network by enumeration: each operator's edges found in NumPy, none from this project's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Elementwise = Callable[[Array], Array]


@dataclass
class Node:
    """An operator: its operands, its value for one item, and its edges.

    ``edges(values, references)`` gives one matrix (its elements, those of the result) for each operand, 0 where there
    is no edge; ``references`` are the values of the reference run, or None where edges weigh derivatives.
    """

    name: str
    operands: tuple[str, ...]
    value: Callable[..., Array]
    edges: Callable[[list[Array], list[Array] | None], list[Array]]


@dataclass
class Network:
    """A network written twice: as a Relax module through ``emit``, and as nodes."""

    emit: Any
    nodes: dict[str, Node] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)

    def _add(self, node: Node, expr: Any) -> str:
        self.nodes[node.name] = node
        self.vars[node.name] = self.emit(expr, node.name)
        return node.name

    def operator(self, name: str, operands: tuple[str, ...], value: Any, edges: Any, expr: Any) -> str:
        """Any operator, its edges given; an operand may stand twice, with other edges each time."""
        return self._add(Node(name, operands, value, edges), expr)

    def linear(self, name: str, make: Callable[..., Any], f: Callable[..., Array], *operands: str) -> str:
        """An operator that is affine in all operands together: its edges are its values at unit vectors."""

        def edges(values: list[Array], references: list[Array] | None) -> list[Array]:
            zeros = [np.zeros_like(v) for v in values]
            start, found = f(*zeros).ravel(), []
            for i, v in enumerate(values):
                units = np.eye(v.size).reshape(v.size, *v.shape)
                found.append(np.stack([f(*zeros[:i], u, *zeros[i + 1 :]).ravel() - start for u in units]))
            return found

        return self._add(Node(name, operands, f, edges), make(*(self.vars[o] for o in operands)))

    def unary(
        self,
        name: str,
        make: Callable[[Any], Any],
        f: Callable[[Array], Array],
        slope: Callable[[Array], Array],
        x: str,
    ) -> str:
        """An operator on elements, and its derivative."""

        def edges(values: list[Array], references: list[Array] | None) -> list[Array]:
            (v,) = values
            if references is None:
                return [np.diag(slope(v).astype(float).ravel())]
            dv = v - references[0]
            return [np.diag(((f(v) - f(references[0])) / np.where(dv == 0, 1, dv)).ravel())]

        return self._add(Node(name, (x,), f, edges), make(self.vars[x]))

    def product(self, name: str, make: Callable[..., Any], f: Callable[[Array, Array], Array], a: str, b: str) -> str:
        """An operator that is linear in each of two operands: the other is what it is, or its mean over both runs."""

        def edges(values: list[Array], references: list[Array] | None) -> list[Array]:
            u, v = values if references is None else ((s + t) / 2 for s, t in zip(values, references, strict=True))
            ours = np.stack([f(e.reshape(u.shape), v).ravel() for e in np.eye(u.size)])
            theirs = np.stack([f(u, e.reshape(v.shape)).ravel() for e in np.eye(v.size)])
            return [ours, theirs]

        return self._add(Node(name, (a, b), f, edges), make(self.vars[a], self.vars[b]))

    def largest(
        self, name: str, make: Callable[[Any], Any], windows: Sequence[Sequence[int]], shape: Any, x: str
    ) -> str:
        """The maximum of each window, a list of indices into the flattened operand in the order of taps."""

        def value(v: Array) -> Array:
            return np.array([v.ravel()[list(window)].max() for window in windows]).reshape(shape)

        def edges(values: list[Array], references: list[Array] | None) -> list[Array]:
            v = values[0].ravel()
            found = np.zeros((v.size, len(windows)))
            for out, window in enumerate(windows):
                at = window[int(np.argmax(v[list(window)]))]
                if references is None:
                    found[at, out] = 1
                    continue
                v0 = references[0].ravel()
                at0 = window[int(np.argmax(v0[list(window)]))]
                top = max(v[at], v0[at0])
                for i, share in ((at, top - v0[at0]), (at0, v[at] - top)):
                    found[i, out] += share / (v[i] - v0[i]) if v[i] != v0[i] else 0
            return [found]

        return self._add(Node(name, (x,), value, edges), make(self.vars[x]))

    def run(self, x: Array) -> dict[str, Array]:
        """All values for one item, in float64."""
        values = {"x": x.astype(np.float64)}
        for name, node in self.nodes.items():
            values[name] = node.value(*(values[o] for o in node.operands))
        return values

    def paths(self, x: Array, x0: Array | None, output: str, seed: Array) -> Iterator[tuple[float, dict[str, int]]]:
        """Every path from ``x`` to the output's weighted sum: its weight, and the element of each value it passes."""
        values = self.run(x)
        references = None if x0 is None else self.run(x0)
        edges: dict[str, list[Array]] = {}
        for name, node in self.nodes.items():
            own = [values[o] for o in node.operands]
            edges[name] = node.edges(own, None if references is None else [references[o] for o in node.operands])
        stack = [(float(w), output, i, {output: i}) for i, w in enumerate(seed.ravel()) if w]
        while stack:
            weight, name, i, passed = stack.pop()
            if name == "x":
                yield weight, passed
                continue
            for operand, matrix in zip(self.nodes[name].operands, edges[name], strict=True):
                for j in np.flatnonzero(matrix[:, i]):
                    stack.append((weight * matrix[j, i], operand, int(j), passed | {operand: int(j)}))


def entropy(weights: Sequence[float]) -> float:
    """Of paths picked by their absolute weights, in nats."""
    p = np.abs(np.asarray(weights, np.float64))
    p = p[p > 0] / p.sum() if p.sum() else p
    return float(-np.sum(p * np.log(p))) if p.size else 0.0

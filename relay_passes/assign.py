"""Which technique each layer takes and which layout each tensor of codes is written in: the whole network at once.

A node (a kernel) picks one of its options; an option costs cycles and reads its inputs in certain layouts. Each tensor
is written in one layout; what else its readers want is made from it, by way of plain codes, once for all of them. The
sum of all that is minimised, by `min_sum`: each layer's cheapest kernel may cost more in conversions than it saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from relay_passes.min_sum import LIMIT, Factor, minimise
from schedules.layout import Layout

# A layout, or None: a tensor in the order of the graph, which operators of TVM read and write.
Form = Layout | None
PLAIN = Layout()


@dataclass(frozen=True)
class Option:
    """A way to do what a node does: its cycles, the forms it reads tensors in, and which it can write (None: any)."""

    name: str
    cycles: float
    reads: Mapping[str, Form] = field(default_factory=dict)
    writes: frozenset[Form] | None = None


@dataclass(frozen=True)
class Node:
    """A kernel; ``tensor`` is what it writes, None for what is no tensor of codes."""

    name: str
    options: Sequence[Option]
    tensor: str | None = None


@dataclass(frozen=True)
class Tensor:
    """Codes: cycles to write each form, and to make each from plain codes (plain ones: from the form written).

    ``made`` of plain codes is a mapping by the form that was written.
    """

    name: str
    written: Mapping[Form, float]
    made: Mapping[Form, float]
    plain: Mapping[Form, float]


@dataclass(frozen=True)
class Network:
    """Nodes and tensors; reads and writes of the nodes name the tensors."""

    nodes: Sequence[Node]
    tensors: Sequence[Tensor]

    def __post_init__(self) -> None:
        known = {tensor.name for tensor in self.tensors}
        used = {n.tensor for n in self.nodes if n.tensor} | {t for n in self.nodes for o in n.options for t in o.reads}
        if not used <= known:
            raise ValueError(f"nodes name unknown tensors {sorted(used - known)}")


@dataclass(frozen=True)
class Assignment:
    """What was picked: an option of each node by its number, a form of each tensor; ``exact`` if nothing is cheaper."""

    picks: Mapping[str, int]
    forms: Mapping[str, Form]
    cycles: float
    exact: bool = True


def cycles(network: Network, picks: Mapping[str, int], forms: Mapping[str, Form]) -> float:
    """The sum of kernels and conversions, infinite where a node cannot write the form; the definition."""
    options = {node.name: node.options[picks[node.name]] for node in network.nodes}
    found = sum(option.cycles for option in options.values())
    for node in network.nodes:
        writes = options[node.name].writes
        if node.tensor is not None and writes is not None and forms[node.tensor] not in writes:
            return float("inf")
    for tensor in network.tensors:
        form = forms[tensor.name]
        wanted = {option.reads[tensor.name] for option in options.values() if tensor.name in option.reads} - {form}
        found += tensor.written[form]
        if wanted and form != PLAIN:
            found += tensor.plain[form]
        found += sum(tensor.made[want] for want in wanted - {PLAIN})
    return found


def greedy(network: Network) -> Assignment:
    """Each node its cheapest option; each tensor in the form that its first reader wants, if it can be written so."""
    picks: dict[str, int] = {}
    forms: dict[str, Form] = {}
    for node in network.nodes:
        picks[node.name] = min(range(len(node.options)), key=lambda i: (node.options[i].cycles, i))
    options = {node.name: node.options[picks[node.name]] for node in network.nodes}
    writers = {node.tensor: options[node.name].writes for node in network.nodes if node.tensor is not None}
    for tensor in network.tensors:
        wanted = [option.reads[tensor.name] for option in options.values() if tensor.name in option.reads]
        allowed = [f for f in tensor.written if writers.get(tensor.name) is None or f in (writers[tensor.name] or ())]
        forms[tensor.name] = next((form for form in wanted if form in allowed), allowed[0])
    return Assignment(picks, forms, cycles(network, picks, forms), exact=False)


def assign(network: Network, limit: int = LIMIT) -> Assignment:
    """The cheapest assignment, or where the graph is too wide one that is no dearer than `greedy`'s."""
    start = greedy(network)
    domains, factors, beginning = _factors(network, start)
    solution = minimise(domains, factors, beginning, limit)
    picks = {node.name: solution.values[f"pick {node.name}"] for node in network.nodes}
    forms = {t.name: list(t.written)[solution.values[f"form {t.name}"]] for t in network.tensors}
    return Assignment(picks, forms, cycles(network, picks, forms), solution.exact)


def forced(network: Network, node: str, pick: int) -> Network:
    """The network in which a node has but one option."""
    changed = [replace(n, options=[n.options[pick]]) if n.name == node else n for n in network.nodes]
    return Network(changed, network.tensors)


def _factors(network: Network, start: Assignment) -> tuple[dict[str, int], list[Factor], dict[str, int]]:
    """Tables over picks, forms written, and for each other form of a tensor whether it is there."""
    domains = {f"pick {node.name}": len(node.options) for node in network.nodes}
    values = {f"pick {name}": pick for name, pick in start.picks.items()}
    factors = [Factor((f"pick {n.name}",), np.array([o.cycles for o in n.options])) for n in network.nodes]
    tensors = {tensor.name: tensor for tensor in network.tensors}
    picked = {node.name: node.options[start.picks[node.name]] for node in network.nodes}
    for tensor in network.tensors:
        name, forms = f"form {tensor.name}", list(tensor.written)
        domains[name], values[name] = len(forms), forms.index(start.forms[tensor.name])
        factors.append(Factor((name,), np.array([tensor.written[form] for form in forms])))
        there = {form: f"{form} of {tensor.name}" for form in [PLAIN, *(f for f in tensor.made if f != PLAIN)]}
        wanted = {option.reads[tensor.name] for option in picked.values() if tensor.name in option.reads}
        others = wanted - {start.forms[tensor.name]}
        for form, variable in there.items():
            domains[variable] = 2
            # What is not needed is not made, but plain codes on the way to other forms are.
            values[variable] = int(form in wanted or (form == PLAIN and bool(others)))
        made = np.array([[0.0, 0.0 if form == PLAIN else tensor.plain[form]] for form in forms])
        factors.append(Factor((name, there[PLAIN]), made))
        for form, variable in there.items():
            if form != PLAIN:
                factors.append(Factor((name, there[PLAIN], variable), _made(tensor, form, forms)))
        for node in network.nodes:
            reads = [option.reads.get(tensor.name, name) for option in node.options]
            for form, variable in there.items():
                if form in reads:
                    missing = np.array([[np.inf if read == form else 0.0, 0.0] for read in reads])
                    factors.append(Factor((f"pick {node.name}", variable), missing))
    for node in network.nodes:
        if node.tensor is not None and any(option.writes is not None for option in node.options):
            forms = list(tensors[node.tensor].written)
            able = [[0.0 if o.writes is None or form in o.writes else np.inf for form in forms] for o in node.options]
            factors.append(Factor((f"pick {node.name}", f"form {node.tensor}"), np.array(able)))
    return domains, factors, values


def _made(tensor: Tensor, form: Form, forms: Sequence[Form]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Over form written, plain codes there, form there: made from plain codes, unless it is what was written."""
    table = np.zeros((len(forms), 2, 2))
    for i, written in enumerate(forms):
        if written != form:
            table[i, 0, 1] = tensor.made[form] if written == PLAIN else np.inf
            table[i, 1, 1] = tensor.made[form]
    return table

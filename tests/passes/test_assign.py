"""The assignment of a whole network against all combinations."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_passes.assign import PLAIN, Form, Network, Node, Option, Tensor, assign, cycles, forced, greedy
from schedules.layout import Layout

PLANES = Layout("planes", 2)
OTHERS: list[Form] = [None, PLANES, Layout("planes", 2, 2)]


def network(seed: int, nodes: int) -> Network:
    """A random graph: each node reads up to three tensors before it, and writes one."""
    random = np.random.default_rng(seed)

    def cost() -> float:
        return float(random.integers(0, 30))

    def tensor(name: str, logical: bool) -> Tensor:
        made = {form: cost() for form in OTHERS if random.random() < 0.7}
        forms: list[Form] = [None] if logical else [PLAIN, *(form for form in made if form is not None)]
        made = {form: made.get(form, cost()) for form in {*made, *forms} - {PLAIN}}
        return Tensor(name, {f: cost() for f in forms}, made, {f: cost() for f in forms if f != PLAIN})

    tensors = [tensor("t0", True)]
    found = []
    for i in range(nodes):
        sources = random.choice(len(tensors), min(len(tensors), int(random.integers(1, 4))), replace=False)
        written = tensor(f"t{i + 1}", False)

        def reads(sources: Any = sources) -> dict[str, Form]:
            return {
                tensors[s].name: [PLAIN, *tensors[s].made][random.integers(0, len(tensors[s].made) + 1)]
                for s in sources
            }

        options = [Option(f"o{k}", cost(), reads()) for k in range(int(random.integers(1, 4)))]
        if random.random() < 0.3:
            forms = list(written.written)
            options.append(
                Option("picky", cost(), reads(), frozenset(forms[: int(random.integers(1, len(forms) + 1))]))
            )
        tensors.append(written)
        found.append(Node(f"n{i}", options, written.name))
    return Network(found, tensors)


def smallest(net: Network) -> float:
    """By the definition, for every pick and every form."""
    picks = [range(len(node.options)) for node in net.nodes]
    forms = [list(tensor.written) for tensor in net.tensors]
    names = [node.name for node in net.nodes], [tensor.name for tensor in net.tensors]
    return min(
        cycles(net, dict(zip(names[0], p, strict=True)), dict(zip(names[1], f, strict=True)))
        for p, f in product(product(*picks), product(*forms))
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_equals_brute_force(seed: int, nodes: int) -> None:
    """On small random graphs with joins."""
    net = network(seed, nodes)
    found = assign(net)
    assert found.exact
    assert found.cycles == cycles(net, found.picks, found.forms) == smallest(net)
    assert found.cycles <= greedy(net).cycles


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(3, 10))
def test_too_wide_is_no_dearer_than_greedy(seed: int, nodes: int) -> None:
    """Tables of 16 entries only."""
    net = network(seed, nodes)
    found = assign(net, limit=16)
    assert assign(net).cycles <= found.cycles <= greedy(net).cycles


def chain(unpack: float) -> Network:
    """Two layers: the second is a little faster on planes, which are dear to write."""
    tensor = Tensor("t", {PLAIN: 0.0, PLANES: unpack}, {PLANES: unpack, None: 5.0}, {PLANES: unpack})
    second = [Option("bytes", 100.0, {"t": PLAIN}), Option("planes", 90.0, {"t": PLANES})]
    return Network([Node("first", [Option("only", 50.0)], "t"), Node("second", second)], [tensor])


@pytest.mark.parametrize(("unpack", "pick", "total"), [(4.0, 1, 144.0), (20.0, 0, 150.0)])
def test_a_faster_kernel_is_not_always_worth_its_layout(unpack: float, pick: int, total: float) -> None:
    """The greedy choice takes it in both cases."""
    net = chain(unpack)
    found = assign(net)
    assert (found.picks["second"], found.cycles) == (pick, total)
    assert greedy(net).picks["second"] == 1
    assert greedy(net).cycles == 140 + unpack
    assert assign(forced(net, "second", 1)).cycles == 140 + unpack


def test_readers_share_a_conversion() -> None:
    """Three readers of planes: one conversion; one reader of plain codes: none."""
    tensor = Tensor("t", {PLAIN: 0.0}, {PLANES: 7.0}, {})
    readers = [Node(f"r{i}", [Option("o", 1.0, {"t": form})]) for i, form in enumerate([PLANES, PLANES, PLANES, PLAIN])]
    net = Network([Node("w", [Option("o", 0.0)], "t"), *readers], [tensor])
    assert assign(net).cycles == 4 + 7


def test_tensors_must_be_known() -> None:
    """A node that reads what is not there."""
    with pytest.raises(ValueError, match=r"unknown tensors \['t'\]"):
        Network([Node("n", [Option("o", 1.0, {"t": PLAIN})])], [])

"""``Chosen``: the assignment of a network, what it saves over the greedy one, and what each layer's choice saves."""

from __future__ import annotations

from functools import cached_property

from relay_passes.assign import Assignment, Network, assign, cycles, forced, greedy
from schedules.layout import Layout


class Chosen:
    """What was chosen for a network.

    Attributes
    ----------
    best : Assignment
        The cheapest assignment.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.best = network, assign(network)
        self._nodes = {node.name: node for node in network.nodes}

    @cached_property
    def greedy(self) -> Assignment:
        """Each layer by itself."""
        return greedy(self.network)

    def read(self, node: str, tensor: str) -> Layout:
        """The layout that a node reads a tensor in."""
        form = self._nodes[node].options[self.best.picks[node]].reads[tensor]
        assert form is not None
        return form

    def saved(self, node: str) -> float | None:
        """Estimated cycles more of the network's cheapest assignment if this node took its own cheapest option.

        None if it does.
        """
        own = self.greedy.picks[node]
        if own == self.best.picks[node]:
            return None
        return assign(forced(self.network, node, own)).cycles - self.best.cycles

    def summary(self) -> dict[str, float | bool]:
        """Estimated cycles: of the assignment, of kernels alone, and of the greedy assignment; whether it is exact."""
        kernels = sum(self._nodes[name].options[pick].cycles for name, pick in self.best.picks.items())
        found = cycles(self.network, self.best.picks, self.best.forms)
        return {"cycles": found, "kernels": kernels, "greedy": self.greedy.cycles, "exact": self.best.exact}

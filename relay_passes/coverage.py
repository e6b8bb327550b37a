"""``Coverage``: what one way of writing a quantiser can say. The docs show it, and tests build every cell of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WIDTHS = tuple(range(1, 9))
GRAINS = ("per tensor", "per channel")
# Of activations: 0..2^b-1; -2^(b-1)..2^(b-1)-1; the same with a zero point; two opposite values; -1, 0 and 1.
SIGNS = ("unsigned", "signed", "asymmetric", "bipolar", "ternary")


@dataclass(frozen=True)
class Coverage:
    """What a spelling covers.

    Attributes
    ----------
    front_ends : tuple of str
        Kinds of model it appears in.
    weights, activations : tuple of int
        Bits it can write; empty where it never quantises them.
    grains : tuple of str
        How its scales vary over weights, of `GRAINS`.
    signs : tuple of str
        Which codes of activations it can write, of `SIGNS`.
    """

    front_ends: tuple[str, ...]
    weights: tuple[int, ...] = WIDTHS
    activations: tuple[int, ...] = WIDTHS
    grains: tuple[str, ...] = GRAINS
    signs: tuple[str, ...] = ("unsigned", "signed", "asymmetric")

    def __post_init__(self) -> None:
        for given, known in ((self.grains, GRAINS), (self.signs, SIGNS), ((*self.weights, *self.activations), WIDTHS)):
            if unknown := set(given) - set(known):
                raise ValueError(f"{unknown} not among {known}")
        if bool(self.weights) != bool(self.grains) or bool(self.activations) != bool(self.signs):
            raise ValueError("weights come with grains, activations with signs")


@dataclass(frozen=True)
class Spelling:
    """A row of the table of spellings.

    Attributes
    ----------
    name, help : str
        ``help`` is one line.
    covers : Coverage
        What it can say.
    reads : callable
        The function that reads it: what it declines is listed from there.
    operators : tuple of str
        Operators of the model that this row is about; empty for patterns of many.
    """

    name: str
    help: str
    covers: Coverage
    reads: Callable[..., Any]
    operators: tuple[str, ...] = ()

"""Cells of the matrix: which widths, grains and signs meet; the weights and inputs they are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.coverage import Coverage

Array = npt.NDArray[Any]
# A power of two, so that every float32 sum of the reference is exact; and one where it is not, short enough that a
# multiple of it is a float32, as the biases of FINN's thresholds must be.
EXACT, UGLY = 0.25, 243 / 1024
ITEMS = 72


@dataclass(frozen=True)
class Codes:
    """What an activation quantiser writes: codes ``qmin..qmax`` that stand for ``(code - zero) * step``."""

    bits: int
    sign: str

    @property
    def possible(self) -> bool:
        """Opposite values take 1 bit, -1, 0 and 1 take 2."""
        return {"bipolar": self.bits == 1, "ternary": self.bits == 2}.get(self.sign, True)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.sign == "ternary":
            return -1, 1
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.sign == "signed" else (0, 2 * half - 1)

    @property
    def zero(self) -> float:
        """The code that stands for 0.0, which bipolar codes have none of."""
        return {"bipolar": 0.5, "asymmetric": float(max(1, (1 << self.bits) // 3))}.get(self.sign, 0.0)


@dataclass(frozen=True)
class Cell:
    """One branch of a model: weights of these bits and grain meet activations of these codes."""

    weight_bits: int
    grain: str
    codes: Codes
    variant: int

    @property
    def label(self) -> str:
        """For names of nodes."""
        grain = self.grain.split()[-1]
        return f"{self.variant}_w{self.weight_bits}_{grain}_a{self.codes.bits}_{self.codes.sign}"


def cells(covers: Coverage, turn: int, writes: Any, most: int | None = None) -> list[Cell]:
    """Every (bits, grain) of weights and every (bits, sign) of activations, each with some of the other.

    What a spelling does not quantise is quantised in raw arithmetic, as many bits. ``turn`` changes who meets whom;
    ``writes(codes)`` says whether the spelling has such codes; ``most`` takes a sample, another at each turn.
    """
    activations = [Codes(b, s) for b in covers.activations for s in covers.signs]
    activations = [codes for codes in activations if codes.possible and writes(codes)]
    weights = [(bits, grain) for bits in covers.weights for grain in covers.grains]
    activations = activations or [Codes(bits, ("unsigned", "signed")[turn % 2]) for bits in sorted(covers.weights)]
    weights = weights or [(bits, ("per tensor", "per channel")[turn % 2]) for bits in sorted(covers.activations)]
    count = max(len(activations), len(weights))
    met = islice(zip(cycle(weights), _turned(activations, turn), strict=False), count)
    made = [Cell(*weight, codes, i + turn) for i, (weight, codes) in enumerate(met)]
    if most is None or most >= count:
        return made
    return [made[(turn + i * count // most) % count] for i in range(most)]


def _turned(codes: list[Codes], turn: int) -> Iterator[Codes]:
    return islice(cycle(codes), 5 * turn % len(codes), None)


@dataclass(frozen=True)
class Weights:
    """Float weights with ties and values beyond the range among them, and how they are quantised."""

    array: Array
    steps: Array
    bits: int
    axis: int | None

    @classmethod
    def random(cls, seed: int, shape: tuple[int, ...], bits: int, axis: int | None, step: float) -> Weights:
        """Half steps, most within the range; per channel, steps that differ."""
        rng = np.random.default_rng(seed)
        reach = (1 << bits) + 1
        halves = rng.integers(-reach, reach + 1, shape)
        shaped = [1] * len(shape)
        steps = np.float32(step)
        if axis is not None:
            shaped[axis] = shape[axis]
            factors = 2.0 ** rng.integers(-2, 3, shape[axis])
            factors = factors if step == EXACT else rng.uniform(0.5, 2, shape[axis])
            steps = np.reshape(step * factors, shaped).astype(np.float32)
        return cls((halves * 0.5 * steps).astype(np.float32), np.asarray(steps), bits, axis)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code of signed weights."""
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    @property
    def integers(self) -> Array:
        """Signed codes, ties to even; with 1 bit -1 and 0."""
        return np.clip(np.rint(self.array / self.steps), *self.limits).astype(np.int8)


def inputs(shape: tuple[int, ...], step: float, largest: float) -> Array:
    """Ties of every 8-bit quantiser of this step, the floats beside them, range ends, zeros, and small values."""
    ties = np.arange(-2 * 140, 2 * 262).astype(np.float32) * np.float32(step / 2)
    beside = [np.nextafter(ties, np.float32(way)) for way in (np.inf, -np.inf)]
    rng = np.random.default_rng(11)
    small = rng.integers(-9, 10, 1500).astype(np.float32) * np.float32(step / 2)
    odd = np.array([0.0, -0.0, 1e-42, -1e-42, largest, -largest], np.float32)
    values = rng.permutation(np.concatenate([ties, *beside, small]))
    size = ITEMS * int(np.prod(shape))
    x = np.resize(values, size).reshape(ITEMS, *shape)
    assert size >= values.size, "too few places for all ties"
    x[-1] = rng.normal(size=shape) * 4 * step
    x[-2].flat[: odd.size] = odd
    return x

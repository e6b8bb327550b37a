"""Between a ``dot`` call's attributes and the `DotProblem` that kernels are built for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from relay_passes.layouts import nhwc_shape
from schedules.dot_problem import DotProblem, Operand, Thresholds


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's taps lie; by default a dense layer's. ``padding`` is (top, left, bottom, right)."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @classmethod
    def of(cls, attrs: Any) -> Geometry:
        """Of the attributes of any of Relax's 1-d and 2-d convolutions; a 1-d one is of height 1."""
        strides, dilation, padding = ([int(v) for v in each] for each in (attrs.strides, attrs.dilation, attrs.padding))
        if len(strides) == 1:
            return cls((1, strides[0]), (1, dilation[0]), (0, padding[0], 0, padding[1]), int(attrs.groups))
        sides = (padding[0], padding[1], padding[2], padding[3])
        return cls((strides[0], strides[1]), (dilation[0], dilation[1]), sides, int(attrs.groups))


def dot_attrs(layer: str, a: Operand, w: Operand, geometry: Geometry) -> dict[str, Any]:
    """Attributes of a ``dot`` call."""
    operands = {
        "a": [a.bits, a.multiplier, a.offset, a.offset_bound],
        "w": [w.bits, w.multiplier, 0, w.offset_bound],
    }
    places = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(geometry).items()}
    return {"layer": layer, **operands, **places}


def dot_problem(
    shape: tuple[int, ...], weights: tuple[int, ...], attrs: Any, epilogue: Thresholds | None = None
) -> DotProblem:
    """The problem of codes ``(N, C, H, W)``, ``(N, C, W)`` or ``(M, K)`` and weights ``(O, C / groups, kh, kw)``.

    The rows of a dense layer count as the pixels of one image row, so that kernels block over them.
    """
    batch, height, width, channels = nhwc_shape(shape)
    numbers = {key: tuple(int(v) for v in attrs[key]) for key in ("a", "w", "stride", "dilation", "padding")}
    return DotProblem(
        batch,
        height,
        width,
        channels,
        weights[0],
        Operand(*numbers["a"]),
        Operand(*numbers["w"]),
        (weights[2], weights[3]),
        (numbers["stride"][0], numbers["stride"][1]),
        (numbers["dilation"][0], numbers["dilation"][1]),
        (numbers["padding"][0], numbers["padding"][1], numbers["padding"][2], numbers["padding"][3]),
        int(attrs["groups"]),
        epilogue,
    )


def dot_shape(problem: DotProblem, rank: int) -> tuple[int, ...]:
    """The logical shape of the accumulators of codes of this rank."""
    p = problem
    return {
        2: (p.out_width, p.out_channels),
        3: (p.batch, p.out_channels, p.out_width),
        4: (p.batch, p.out_channels, p.out_height, p.out_width),
    }[rank]

"""``gaussian``: normal noise from a counter, computed where it is used; no state, no table, the same on every machine.

Each element's counter is encrypted by Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011, section 4.2), which gives two random words; these are made normal by Box and Muller's formula
``sqrt(-2 ln u) cos(2 pi v)``. Logarithm and cosine are polynomials: a library's differ from machine to machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from relay_passes.ops import call, literal, register

GAUSSIAN = "tvm_lowbit.gaussian"
_PARITY = 0x1BD11BDA
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def gaussian(shape: Sequence[int], seed: int, sample: int, stream: int) -> Any:
    """Normal noise of mean 0 and standard deviation 1, float32 ``(1, *shape)``.

    Parameters
    ----------
    shape : sequence of int
        Its elements are counted in this order.
    seed, sample : int
        The key, 32 bits each.
    stream : int
        Half of the counter, 32 bits; the other half is the element's number.
    """
    return call(GAUSSIAN, literal(np.array([seed, sample, stream], np.uint32)), shape=list(shape))


def threefry(
    key: tuple[Any, Any], counter: tuple[Any, Any], word: Any, bind: Callable[[Any], Any] = lambda expr: expr
) -> tuple[Any, Any]:
    """Two random words of 32 bits; ``word`` makes one of an int (sums wrap), ``bind`` names what is read twice."""
    keys = (*key, key[0] ^ key[1] ^ word(_PARITY))
    a, b = bind(counter[0] + keys[0]), bind(counter[1] + keys[1])
    for turn in range(20):
        rotation = _ROTATIONS[turn % 8]
        a = bind(a + b)
        b = bind((b << word(rotation) | b >> word(32 - rotation)) ^ a)
        if turn % 4 == 3:
            group = turn // 4 + 1
            a = bind(a + keys[group % 3])
            b = bind(b + keys[(group + 1) % 3] + word(group))
    return a, b


def _real(value: float) -> Any:
    return tirx.const(value, "float32")


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """From the highest power down."""
    result = _real(coefficients[0])
    for c in coefficients[1:]:
        result = result * x + _real(c)
    return result


def _logarithm(bits: Any, bind: Callable[[Any], Any]) -> Any:
    """The natural logarithm of ``(bits + 1) / 2**24``, for 24 bits."""
    u = (bits + tirx.const(1, "uint32")).astype("float32")  # exact
    pattern = bind(tirx.reinterpret("int32", u))
    one = tirx.const(0x3F800000, "int32")
    mantissa = bind(tirx.reinterpret("float32", (pattern & tirx.const(0x7FFFFF, "int32")) | one))
    large = mantissa > _real(math.sqrt(2))
    exponent = (pattern >> tirx.const(23, "int32")) - tirx.const(127 + 24, "int32") + large.astype("int32")
    m = bind(tirx.Select(large, mantissa * _real(0.5), mantissa))
    t = bind((m - _real(1)) / (m + _real(1)))
    # ln m = 2 artanh((m - 1) / (m + 1)), whose series ends early as |t| < 0.172.
    series = _polynomial(bind(t * t), [2 / 9, 2 / 7, 2 / 5, 2 / 3, 2])
    return exponent.astype("float32") * _real(math.log(2)) + t * series


def _cosine(bits: Any, bind: Callable[[Any], Any]) -> Any:
    """The cosine of ``bits / 2**24`` turns, for 24 bits: a quarter, and what is left of it by Taylor's series."""
    quarter = bind(bits >> tirx.const(22, "uint32"))
    phi = bind((bits & tirx.const(0x3FFFFF, "uint32")).astype("float32") * _real(math.pi / 2 / (1 << 22)))
    square = bind(phi * phi)
    cosine = _polynomial(square, [(-1) ** k / math.factorial(2 * k) for k in range(6, -1, -1)])
    sine = phi * _polynomial(square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(6, -1, -1)])
    one, two, three = (tirx.const(v, "uint32") for v in (1, 2, 3))
    size = bind(tirx.Select(tirx.any(quarter == one, quarter == three), sine, cosine))
    return tirx.Select(tirx.any(quarter == one, quarter == two), -size, size)


def _kernel(shape: Sequence[int]) -> Any:
    """A PrimFunc of (key, out): one element after the other, each step of it in a register."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        key = T.arg("key", T.buffer((3,), "uint32"))
        out = T.arg("out", T.buffer((1, *shape), "float32"))
        registers = {dtype: T.alloc_buffer((_REGISTERS,), dtype) for dtype in ("uint32", "int32", "float32")}
        with T.grid(1, *shape) as index:
            used = dict.fromkeys(registers, 0)

            def bind(expr: Any) -> Any:
                dtype = str(expr.ty.dtype)
                at, used[dtype] = used[dtype], used[dtype] + 1
                T.buffer_store(registers[dtype], expr, [at])
                return registers[dtype][at]

            number: Any = tirx.const(0, "uint32")
            for position, extent in zip(index[1:], shape, strict=True):
                number = number * tirx.const(extent, "uint32") + position.astype("uint32")
            a, b = threefry((key[0], key[1]), (number, key[2]), lambda v: tirx.const(v, "uint32"), bind)
            u, v = (bind(word >> tirx.const(8, "uint32")) for word in (a, b))
            radius = bind(tirx.sqrt(_real(-2) * _logarithm(u, bind)))
            T.buffer_store(out, radius * _cosine(v, bind), list(index))
    built = builder.get()
    # Relax asks of each kernel of one argument whether it only reshapes, and expects to find a block there.
    root = SBlockRealize([], True, SBlock([], [], [], "root", built.body))
    return built.with_body(root).with_attr("s_tir", True)


# At least as many as values are bound of one type.
_REGISTERS = 64


def _legalize(bb: Any, call_: Any) -> Any:
    kernel = bb.add_func(_kernel([int(d) for d in call_.attrs["shape"]]), "gaussian")
    return relax.call_tir(kernel, list(call_.args), call_.ty)


register(GAUSSIAN, 1, lambda c, ctx: relax.TensorType([1, *(int(d) for d in c.attrs["shape"])], "float32"), _legalize)

"""Compact weights come back from their bytes, read whole, one by one, and as vectors."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from kernel_runner import evaluate
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.compact import (
    CHANNELS,
    LANES,
    compact_at,
    expand,
    expand_vectors,
    pack_compact,
    pack_vectors,
    per_byte,
    unpack_compact,
    unpack_vectors,
    vector_code_at,
    vectors_of,
)
from schedules.intrinsics import vload, vstore

TAPS = 9


def random_codes(bits: int, o: int, c: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 1 << bits, (o, c, TAPS), np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back(bits: int) -> None:
    codes = random_codes(bits, 8, 32)
    packed = pack_compact(codes, bits)
    assert packed.shape == (2, 2, vectors_of(bits, TAPS), LANES)
    np.testing.assert_array_equal(unpack_compact(packed, bits, TAPS), codes)
    read = evaluate(codes.shape, lambda at, o, c, tap: compact_at(at, bits, o, c, tap), packed)
    np.testing.assert_array_equal(read, codes)


def test_one_two_and_four_bits_are_stored_without_gaps() -> None:
    for bits, spare in ((1, 4), (2, 0), (4, 0)):
        stored = pack_compact(random_codes(bits, 4, 16), bits)
        assert 8 * stored.size == (4 * TAPS + spare) * 16 * bits


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_vectors_of_taps(bits: int) -> None:
    codes = random_codes(bits, CHANNELS, LANES)
    packed = pack_compact(codes, bits)[0, 0]
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main"})
        source = T.arg("source", T.buffer(packed.shape, "uint8"))
        out = T.arg("out", T.buffer((CHANNELS, TAPS, LANES), "uint8"))
        for channel in range(CHANNELS):
            for tap, code in enumerate(expand(lambda v: vload(source, [v, 0], LANES), bits, TAPS, channel)):
                vstore(T, out, code, [channel, tap, 0], LANES)
    compiled = tvm.compile(tvm.IRModule({"main": builder.get()}), tvm.target.Target({"kind": "llvm"}))
    result = tvm.runtime.empty((CHANNELS, TAPS, LANES), "uint8")
    compiled["main"](tvm.runtime.tensor(packed), result)
    np.testing.assert_array_equal(result.numpy(), codes.transpose(0, 2, 1))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 5, 8])
def test_vectors_come_back(bits: int, count: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, count, LANES), np.uint8)
    packed = pack_vectors(codes, bits)
    assert packed.shape == (3, -(-count // per_byte(bits)), LANES)
    np.testing.assert_array_equal(unpack_vectors(packed, bits, count), codes)
    read = evaluate(codes.shape, lambda at, o, v, i: vector_code_at(lambda *j: at(o, *j), bits, v, i), packed)
    np.testing.assert_array_equal(read, codes)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_vectors_apart(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (per_byte(bits), LANES), np.uint8)
    packed = pack_vectors(codes, bits)
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main"})
        source = T.arg("source", T.buffer(packed.shape, "uint8"))
        out = T.arg("out", T.buffer(codes.shape, "uint8"))
        for i, code in enumerate(expand_vectors(vload(source, [0, 0], LANES), bits)):
            vstore(T, out, code, [i, 0], LANES)
    compiled = tvm.compile(tvm.IRModule({"main": builder.get()}), tvm.target.Target({"kind": "llvm"}))
    result = tvm.runtime.empty(codes.shape, "uint8")
    compiled["main"](tvm.runtime.tensor(packed), result)
    np.testing.assert_array_equal(result.numpy(), codes)

"""Layouts: what is packed comes back, in NumPy and in compiled expressions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import evaluate, generator

from schedules.layout import Layout, pack, pack_planes, plane_bytes, unpack

Logical = tuple[int, int, int, int]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, Logical]:
    """A layout and a logical shape it can hold."""
    kind, bits = draw(st.sampled_from(["nhwc", "planes"])), draw(st.integers(1, 8))
    groups, per_group = draw(st.integers(1, 4)), draw(st.integers(1, 19))
    n, h, w = (draw(st.integers(1, 3)) for _ in range(3))
    return Layout(kind, bits, groups), (n, h, w, groups * per_group)


def codes_for(layout: Layout, shape: Logical) -> np.ndarray:
    """Codes that the layout has bits for."""
    return generator((layout, shape)).integers(0, 1 << layout.bits, shape, np.uint8)


@settings(derandomize=True, deadline=None, database=None)
@given(layouts())
def test_what_is_packed_comes_back(sample: tuple[Layout, Logical]) -> None:
    layout, shape = sample
    codes = codes_for(layout, shape)
    packed = pack(codes, layout)
    assert packed.dtype == np.uint8
    assert packed.shape == layout.shape(*shape)
    np.testing.assert_array_equal(unpack(packed, layout, shape[3]), codes)


@settings(derandomize=True, deadline=None, database=None)
@given(layouts())
def test_bits_past_the_last_channel_are_zero(sample: tuple[Layout, Logical]) -> None:
    layout, shape = sample
    layout = Layout("planes", layout.bits, layout.groups)
    packed = pack(np.full(shape, (1 << layout.bits) - 1, np.uint8), layout)
    bits = np.unpackbits(packed, axis=-1, bitorder="little")
    used = shape[3] // layout.groups
    assert bits[..., :used].all()
    assert not bits[..., used:].any()


def test_bit_j_of_byte_b_is_channel_8_b_plus_j_of_its_group() -> None:
    for channel, bit in np.ndindex(20, 3):
        codes = np.zeros((1, 1, 1, 20), np.uint8)
        codes[..., channel] = 1 << bit
        packed = pack(codes, Layout("planes", 3, 2))
        byte, j = divmod(channel % 10, 8)
        expected = np.zeros((1, 1, 1, 2, 3, 2), np.uint8)
        expected[0, 0, 0, channel // 10, bit, byte] = 1 << j
        np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize(
    ("layout", "channels"),
    [
        (Layout(), 7),
        (Layout("planes", 1), 9),
        (Layout("planes", 3, 2), 22),
        (Layout("planes", 8, 3), 24),
        (Layout("planes", 2, 5), 5),
    ],
    ids=str,
)
def test_the_load_expression_reads_what_unpack_does(layout: Layout, channels: int) -> None:
    shape = (2, 2, 3, channels)
    codes = codes_for(layout, shape)
    packed = pack(codes, layout)
    read = evaluate(shape, lambda at, n, h, w, c: layout.load(at, n, h, w, c, channels), packed)
    np.testing.assert_array_equal(read, unpack(packed, layout, channels))
    np.testing.assert_array_equal(read, codes)


def test_planes_of_any_rank() -> None:
    codes = np.array([[3, 0, 1], [2, 2, 2]], np.uint8)
    np.testing.assert_array_equal(pack_planes(codes, 2), [[[0b101], [0b001]], [[0b000], [0b111]]])
    assert [plane_bytes(channels) for channels in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="layout kind must be nhwc or planes, got nchw"):
        Layout("nchw")

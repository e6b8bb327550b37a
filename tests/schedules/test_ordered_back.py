"""The loop that `ordered_back` writes, run here instruction by instruction, against the matrices."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernel_runner import generator

from schedules.ordered_back import CHANNELS, OrderedBack
from schedules.winograd_points import FOUR, NINTH

LOOPS = [
    OrderedBack(tiles, 32 * tiles, pixel, bias, add)
    for tiles, pixel in ((1, 32), (3, 160))
    for bias in (0, -1234)
    for add in (False, True)
]


def run(loop: OrderedBack, products: np.ndarray, sums: np.ndarray) -> None:
    """Change the sums as the instructions do."""
    memory = {"products": products.reshape(-1).view(np.uint8), "sums": sums.reshape(-1).view(np.uint8)}
    at: dict[str, tuple[str, int]] = {"x9": ("products", 0), "x10": ("sums", 0)}
    general: dict[str, object] = {}
    v = np.full((32, 16), 0xA5, np.uint8)

    def place(text: str) -> tuple[np.ndarray, int]:
        base, offset = re.fullmatch(r"\[(x\d+), #(\d+)\]", text).groups()  # type: ignore[union-attr]
        name, begin = at[base]
        return memory[name], begin + int(offset)

    lines = loop.instructions()
    first, last = lines.index("1:"), lines.index("b.ne 1b")
    for line in lines[:first] + lines[first + 1 : last] * loop.tiles:
        name, _, rest = line.partition(" ")
        arguments = rest.split(", ", 1 if name in ("ldr", "str") else -1)
        r = [int(number) for number in re.findall(r"\bv(\d+)", rest)]
        words = v.view(np.uint16)
        if name == "ldr":
            buffer, begin = place(arguments[1])
            assert 0 <= begin <= len(buffer) - 8
            eight = buffer[begin : begin + 8].copy()
            if arguments[0][0] == "x":
                general[arguments[0]] = eight
            else:
                v[int(arguments[0][1:])] = np.concatenate([eight, np.zeros(8, np.uint8)])
        elif name == "str":
            buffer, begin = place(arguments[1])
            buffer[begin : begin + 16] = v[int(arguments[0][1:])]
        elif name == "ins" and ".d[1]" in rest:
            v[r[0], 8:] = general[arguments[1]]
        elif name == "ins":
            words[r[0], int(rest[rest.index("[") + 1])] = general["8"]
        elif name == "dup":
            words[r[0]] = general["8"]
        elif name == "mov" and arguments[0] in ("w8", "x8"):
            general["8"] = int(arguments[1][1:])
        elif name == "mov":
            general[arguments[0]] = int(arguments[1][1:])
        elif name == "add" and arguments[0] == "x10":
            at["x10"] = (at["x10"][0], at["x10"][1] + int(general[arguments[2]]))  # type: ignore[call-overload]
        elif name == "add" and arguments[2][0] == "x":
            buffer_name, begin = at[arguments[2]]
            at[arguments[0]] = buffer_name, begin + int(general[arguments[0]])  # type: ignore[call-overload]
        elif name == "add" and not r:
            at[arguments[0]] = at[arguments[0]][0], at[arguments[0]][1] + int(arguments[2][1:])
        elif name in ("add", "sub"):
            words[r[0]] = words[r[1]] + words[r[2]] if name == "add" else words[r[1]] - words[r[2]]
        elif name in ("mul", "mla"):
            found = words[r[1]] * words[r[2], int(rest[rest.index("[") + 1])]
            words[r[0]] = found + words[r[0]] if name == "mla" else found
        elif name in ("sshr", "ssra"):
            shifted = (words[r[1]].view(np.int16) >> 2).view(np.uint16)
            words[r[0]] = words[r[0]] + shifted if name == "ssra" else shifted
        else:
            assert name == "subs", line


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_the_instructions_are_the_matrices(loop: OrderedBack) -> None:
    assert loop.possible()
    random = generator(loop)
    count, channels = FOUR.count, CHANNELS // 2
    products = random.integers(0, 1 << 16, (count, count, loop.tiles, channels), np.uint16)
    sums = random.integers(0, 1 << 16, (loop.tiles, FOUR.side, FOUR.side, loop.pixel // 2), np.uint16)
    factors = np.array([NINTH if i in FOUR.ninths else 1 for i in range(count)])
    back = FOUR.a * factors[:, None]
    four = np.einsum("ijtc,iy,jx->tyxc", products.astype(np.int64), back, back) + loop.bias
    quarter = (four % (1 << 16)).astype(np.uint16).view(np.int16) >> 2
    expected = sums.copy()
    expected[..., :channels] = quarter.view(np.uint16) + (sums[..., :channels] if loop.add else 0)
    run(loop, products, sums)
    np.testing.assert_array_equal(sums, expected)


def test_what_does_not_fit_is_left_to_llvm() -> None:
    assert OrderedBack(64, 2048, 1024, 0, False).possible()
    assert not OrderedBack(128, 4096, 1024, 0, False).possible()
    assert not OrderedBack(8, 256, 4096, 0, False).possible()

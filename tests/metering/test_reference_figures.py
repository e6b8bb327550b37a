"""Prices against those of an independent estimator.

``reference_blocks.json`` holds, for 3x3 convolutions of ResNet-18 on three cores, the blocks in which a compiled kernel
spends most of its time: how often each runs, its instructions, and what armmeter, an estimator written apart from this
one from the same measurements (LLVM's disassembler, a model of ports, a scoreboard for the core that issues in order),
asks for it in cycles: by units alone, and with latencies. Obtained by ``examples/kernels/compare.py --record``, which
also has both price all blocks of whole calls: they agree within 2 % in each of 84 cells (four layers, seven widths,
three cores), kernels with inline assembly among them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_lowbit.metering.price import price

ROWS = json.loads(Path(__file__).with_name("reference_blocks.json").read_text())


def test_the_file_has_what_it_should():
    asked = {(row["core"], row["bits"], row["channels"]) for row in ROWS}
    cores, widths = ("cortex-a53", "cortex-a72", "cortex-a76"), ["W1A1", "W1A2", "W2A2", "TA2", "W3A3", "W4A4", "W8A8"]
    assert asked == {(core, bits, c) for core in cores for bits in widths for c in (64, 512)}
    assert len(ROWS) == len(asked) and all(row["share"] > 0.5 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['core']} {row['bits']} {row['channels']}")
@pytest.mark.parametrize("model", ["throughput", "cycles"])
def test_within_a_tenth(row, model):
    ours = theirs = 0.0
    for block in row["blocks"]:
        words = tuple(int(word, 16) for word in block["words"].split())
        ours += block["count"] * getattr(price(words, row["core"]), model)
        theirs += block["count"] * block[model]
    assert ours == pytest.approx(theirs, rel=0.1)

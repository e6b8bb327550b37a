"""Our estimates against those of armmeter, an estimator written apart from ours, on the 3x3 layers of ResNet-18.

    python examples/kernels/compare.py --meter FOLDER [--record tests/metering/reference_blocks.json]

Meters what `build` would run for each layer, width and core, packing and epilogue included, and has both price the same
executed blocks: by their units alone (armmeter's model "silicon"), and with latencies (its model "latency"). ``FOLDER``
holds the modules ``armmeter``, ``silicon`` and ``latency``, which need LLVM's disassembler. ``--record`` writes the
blocks that take most of each layer's time with armmeter's prices, which `tests/metering/test_reference_figures.py`
holds ours against. All figures are estimates, not measurements of a board.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schedules.cores import CORES
from schedules.techniques import select
from tvm_lowbit.metering import estimate
from tvm_lowbit.metering.__main__ import LAYERS, problem
from tvm_lowbit.metering.estimate import HotBlock
from tvm_lowbit.metering.layers import Candidate, MeteredLayer, meter_layers

WIDTHS = ("W1A1", "W1A2", "W2A2", "TA2", "W3A3", "W4A4", "W8A8")
ARM = ("cortex-a53", "cortex-a72", "cortex-a76")
# Recorded are, of the first and the last layer, the hottest blocks that take together as much of its time.
SHARE, RECORDED = 0.6, (LAYERS[0][0], LAYERS[-1][0])


def metered(core: str, bits: str) -> list[MeteredLayer]:
    """The four layers, by the technique that `build` would take."""
    problems = [problem(channels, size, bits, epilogue=True) for channels, size in LAYERS]
    return meter_layers([Candidate(p, select(p, CORES[core]).technique.name) for p in problems], core)


def priced(meter: Any, blocks: Sequence[HotBlock], core: str, model: str) -> dict[tuple[int, ...], float]:
    """Armmeter's cycles of one execution of each block; its latency model prices those alone that matter."""
    named = {i: (b.count, b.function, tuple(f"{word:08x}" for word in b.words)) for i, b in enumerate(blocks)}
    cycles, _ = meter.MODELS[model](named, core)
    return {b.words: cycles[ops] for b, (_, _, ops) in zip(blocks, named.values(), strict=True)}


def compared(meter: Any, row: MeteredLayer, core: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios of ours to armmeter's, and the hottest blocks to record.

    Raises
    ------
    AssertionError
        If the kernel did not write what the definition says.
    """
    assert row.exact and row.estimate is not None, row
    ours, p = row.estimate, row.candidate.problem
    units, latency = (priced(meter, ours.hottest, core, model) for model in ("silicon", "latency"))
    whole = [sum(b.count * prices[b.words] for b in ours.hottest) for prices in (units, latency)]
    ratios = {"units": ours.throughput / whole[0], "cycles": ours.cycles / whole[1]}
    hot, share = [], 0.0
    for block in ours.hottest:
        if share >= SHARE:
            break
        share += block.cycles / ours.cycles
        prices = {"throughput": round(units[block.words], 3), "cycles": round(latency[block.words], 3)}
        hot.append({"count": block.count, **prices, "words": " ".join(f"{word:08x}" for word in block.words)})
    about = {"core": core, "technique": row.candidate.technique, "channels": p.channels, "size": p.height}
    return ratios, {**about, "share": round(share, 3), "blocks": hot}


def table(cells: Mapping[tuple[str, str, int], Mapping[str, float]], kind: str) -> Iterable[str]:
    """Lines of markdown: a row for each core and layer, a column for each width."""
    yield f"| {kind} | {' | '.join(WIDTHS)} |"
    yield f"|---|{'---|' * len(WIDTHS)}"
    for core in dict.fromkeys(core for core, _, _ in cells):
        for channels, size in LAYERS:
            row = [cells.get((core, bits, channels)) for bits in WIDTHS]
            figures = ["" if ratios is None else f"{ratios[kind]:.3f}" for ratios in row]
            yield f"| {core} {channels}x{size} | {' | '.join(figures)} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meter", type=Path, required=True)
    parser.add_argument("--cores", nargs="+", default=ARM, choices=ARM)
    parser.add_argument("--widths", nargs="+", default=WIDTHS, choices=WIDTHS)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.meter))
    meter = importlib.import_module("armmeter")
    estimate.HOTTEST = sys.maxsize  # all blocks of a call, not the few that reports list
    cells, records = {}, []
    for core in options.cores:
        for bits in options.widths:
            for row in metered(core, bits):
                ratios, record = compared(meter, row, core)
                cells[core, bits, row.candidate.problem.channels] = ratios
                records.append({"bits": bits, **record})
            print(core, bits, "done", file=sys.stderr, flush=True)
    if options.record:
        chosen = [record for record in records if record["channels"] in RECORDED]
        options.record.write_text(json.dumps(chosen, indent=0) + "\n")
    for kind in ("cycles", "units"):
        print("\n".join(table(cells, kind)), end="\n\n")


if __name__ == "__main__":
    main()

"""``Estimate``: counted blocks, priced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tvm_lowbit.metering.counts import Block, Call, Counts, Segment, Traffic, total
from tvm_lowbit.metering.decode import decode
from tvm_lowbit.metering.price import price

# How many blocks an estimate names.
HOTTEST = 24
# What ends a block because the program says so.
_ENDS = frozenset({"branch", "system"})
_LONGEST = 4096


@dataclass(frozen=True)
class HotBlock:
    """A block that takes much of the time.

    Attributes
    ----------
    function : str
        Library and function.
    address : int
        Where it is in that run's memory.
    words : tuple of int
        Its instructions.
    count : int
        How often it ran.
    cycles, throughput : float
        Estimated cycles of all its runs, and what its execution units alone would take.
    """

    function: str
    address: int
    words: tuple[int, ...]
    count: int
    cycles: float
    throughput: float


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a call; no board was measured.

    Attributes
    ----------
    core : str
        Whose execution units priced it.
    cycles : float
        With the latencies that the core cannot hide, caches taken as warm.
    throughput : float
        Were all latencies hidden: the limit of the execution units for these instructions.
    instructions, loaded, stored : int
        Executed; bytes that loads and stores moved.
    functions : mapping of str to float
        Cycles by function, most first.
    hottest : sequence of HotBlock
        The blocks that take most.
    traffic : Traffic or None
        Where caches were followed: accesses, misses, and lines touched.
    """

    core: str
    cycles: float
    throughput: float
    instructions: int
    loaded: int
    stored: int
    functions: Mapping[str, float]
    hottest: Sequence[HotBlock]
    traffic: Traffic | None = None


def estimate(
    counts: Counts, segment: Segment, calls: Sequence[Call], core: str, kernel: tuple[Path, str] | None = None
) -> Estimate:
    """Price what ran in some calls.

    Parameters
    ----------
    counts : Counts
        The run, which knows where libraries are.
    segment : Segment
        One of its segments.
    calls : sequence of Call
        Some or all of the segment's.
    core : str
        Whose pipeline prices.
    kernel : (Path, str), optional
        What all that ran in this library goes by: libraries are stripped of the names of their inner functions.

    Returns
    -------
    Estimate

    Raises
    ------
    LowbitError
        For a core whose pipeline is not known.
    """
    runs = straighten(segment.blocks, total(calls))

    def name_of(block: Block) -> str:
        library, function = counts.function_at(block.address)
        return f"{library.name}:{kernel[1] if kernel is not None and library == kernel[0] else function}"

    hot = [
        HotBlock(name_of(block), block.address, block.words, count, count * cost.cycles, count * cost.throughput)
        for block, count in runs.items()
        for cost in (price(block.words, core),)
    ]
    functions: dict[str, float] = {}
    for row in hot:
        functions[row.function] = functions.get(row.function, 0.0) + row.cycles
    moved = [(count, _moved(block)) for block, count in runs.items()]
    return Estimate(
        core=core,
        cycles=math.fsum(row.cycles for row in hot),
        throughput=math.fsum(row.throughput for row in hot),
        instructions=sum(row.count * len(row.words) for row in hot),
        loaded=sum(count * loaded for count, (loaded, _) in moved),
        stored=sum(count * stored for count, (_, stored) in moved),
        functions=_most_first(functions),
        hottest=_hottest(hot),
        traffic=_traffic([call.traffic for call in calls]),
    )


def combined(parts: Sequence[Estimate]) -> Estimate:
    """The estimate of several things that run one after another, of which there is at least one."""
    functions: dict[str, float] = {}
    for part in parts:
        for name, cycles in part.functions.items():
            functions[name] = functions.get(name, 0.0) + cycles
    blocks: dict[tuple[str, int, tuple[int, ...]], list[HotBlock]] = {}
    for part in parts:
        for row in part.hottest:
            blocks.setdefault((row.function, row.address, row.words), []).append(row)
    return Estimate(
        core=parts[0].core,
        cycles=math.fsum(part.cycles for part in parts),
        throughput=math.fsum(part.throughput for part in parts),
        instructions=sum(part.instructions for part in parts),
        loaded=sum(part.loaded for part in parts),
        stored=sum(part.stored for part in parts),
        functions=_most_first(functions),
        hottest=_hottest(
            [
                HotBlock(*key, *(sum(getattr(row, name) for row in rows) for name in ("count", "cycles", "throughput")))
                for key, rows in blocks.items()
            ]
        ),
        traffic=_traffic([part.traffic for part in parts]),
    )


def _most_first(functions: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(functions.items(), key=lambda item: (-item[1], item[0])))


def _hottest(rows: Sequence[HotBlock]) -> list[HotBlock]:
    return sorted(rows, key=lambda row: (-row.cycles, row.address, row.words))[:HOTTEST]


def straighten(blocks: Mapping[int, Block], sums: Mapping[int, int]) -> dict[Block, int]:
    """Blocks joined with what always follows them, and how often each ran.

    QEMU ends a block where a page of memory ends, and after some hundreds of instructions, which the core knows nothing
    of: a loop that is cut in two has to be priced as the loop that it is.
    """
    runs: dict[Block, int] = {}
    for number, count in sums.items():
        runs[blocks[number]] = runs.get(blocks[number], 0) + count
    at: dict[int, list[Block]] = {}
    for block in runs:
        at.setdefault(block.address, []).append(block)
    # From the highest address down, so that what a block is joined with is already whole.
    for block in sorted(runs, key=lambda b: (-b.address, b.words)):
        followers = at.get(block.address + 4 * len(block.words), [])
        if decode(block.words[-1]).kind in _ENDS or len(followers) != 1:
            continue
        (follower,) = followers
        count = runs[block]
        if runs.get(follower, 0) < count or len(block.words) + len(follower.words) > _LONGEST:
            continue
        del runs[block]
        runs[follower] -= count
        if not runs[follower]:
            del runs[follower]
        joined = Block(block.address, block.words + follower.words)
        runs[joined] = runs.get(joined, 0) + count
        at[block.address] = [joined if other is block else other for other in at[block.address]]
    return runs


def _moved(block: Block) -> tuple[int, int]:
    instructions = [decode(word) for word in block.words]
    return sum(i.loaded for i in instructions), sum(i.stored for i in instructions)


def _traffic(parts: Sequence[Traffic | None]) -> Traffic | None:
    """The sum; lines touched are summed too, so they count again where two parts touch the same."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return Traffic(**{row.name: sum(getattr(part, row.name) for part in known) for row in fields(Traffic)})

"""``Estimate``: counted blocks, priced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm_lowbit.metering.counting import Block, Call, Counts, Segment, Traffic, total
from tvm_lowbit.metering.decode import decode
from tvm_lowbit.metering.price import price, throughput_cycles

# Latencies are followed in blocks that take more than this share; the rest is priced by its units alone.
_FOLLOWED = 2e-4
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


def estimate(counts: Counts, segment: Segment, calls: Sequence[Call], core: str, hottest: int = 8) -> Estimate:
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
    hottest : int
        How many blocks to name.

    Returns
    -------
    Estimate

    Raises
    ------
    LowbitError
        For a core whose pipeline is not known.
    """
    runs = straighten(segment.blocks, total(calls))
    bounds = {block: count * throughput_cycles(block.words, core) for block, count in runs.items()}
    least = _FOLLOWED * sum(bounds.values())
    rows = []
    for block, count in runs.items():
        # A block whose latencies could matter is one that runs often, however little its units have to do.
        follow = bounds[block] > least or count * len(block.words) > least
        rows.append((count * price(block.words, core).cycles if follow else bounds[block], block))
    rows.sort(key=lambda row: (-row[0], row[1].address, row[1].words))
    functions: dict[str, float] = {}
    instructions = loaded = stored = 0
    for cycles, block in rows:
        count, name = runs[block], counts.function_at(block.address)
        functions[name] = functions.get(name, 0.0) + cycles
        instructions += count * len(block.words)
        moved = _moved(block)
        loaded, stored = loaded + count * moved[0], stored + count * moved[1]
    return Estimate(
        core=core,
        cycles=math.fsum(cycles for cycles, _ in rows),
        throughput=math.fsum(bounds.values()),
        instructions=instructions,
        loaded=loaded,
        stored=stored,
        functions=dict(sorted(functions.items(), key=lambda item: (-item[1], item[0]))),
        hottest=[
            HotBlock(counts.function_at(block.address), block.address, block.words, runs[block], cycles, bounds[block])
            for cycles, block in rows[:hottest]
        ],
        traffic=_traffic(calls),
    )


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


def _traffic(calls: Sequence[Call]) -> Traffic | None:
    parts = [call.traffic for call in calls if call.traffic is not None]
    if not parts:
        return None
    names = ("loads", "stores", "loaded", "stored", "l1_misses", "l2_misses", "lines")
    return Traffic(**{name: sum(getattr(part, name) for part in parts) for name in names})

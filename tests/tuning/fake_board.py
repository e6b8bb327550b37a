"""A board that reckons instead of running: what a candidate costs is written in its knobs."""

from __future__ import annotations

import math
import os
import sys
import time
import zlib
from pathlib import Path

from schedules.cores import CORES
from schedules.errors import LowbitError
from tvm_lowbit.tuning.records import Candidate, Outcome


def cycles_of(candidate: Candidate) -> float:
    """A valley in mr and tile, a step in nr and bytes, a little noise that is the same each time."""
    knobs = dict(candidate.knobs)
    cost = 1.0 + abs(knobs.get("mr", 4) - 6) / 8 + abs(math.log2(knobs.get("tile", 8) / 4)) / 10
    cost += 0.1 * (knobs.get("nr", 8) == 4) + knobs.get("bytes", 16) / 64 + 0.5 * (candidate.technique == "smlal")
    return 1e5 * (cost + zlib.crc32(repr(candidate).encode()) % 100 / 1e4)


class FakeBoard:
    """Measures by `cycles_of`, but for the candidates that it was told else of."""

    name, clock, threads = "fake", 1e9, 1

    def __init__(
        self,
        core: str = "cortex-a72",
        outcomes: dict[Candidate, Outcome] | None = None,
        dies_at: int = -1,
        seconds: float = 0.0,
    ) -> None:
        self.core, self.outcomes, self.dies_at, self.seconds = CORES[core], outcomes or {}, dies_at, seconds
        self.measured: list[Candidate] = []
        self.closed = False

    def measure(self, candidate: Candidate) -> Outcome:
        if len(self.measured) == self.dies_at:
            raise LowbitError("the wire", "an answer", "silence")
        self.measured.append(candidate)
        time.sleep(self.seconds)
        return self.outcomes.get(candidate, Outcome("ok", cycles_of(candidate)))

    def check(self) -> None:
        if self.dies_at == 0:
            raise LowbitError("the wire", "an answer", "silence")

    def close(self) -> None:
        self.closed = True


def main() -> None:
    """Tune MODEL with records in FOLDER, slowly: for tests that kill it."""
    from tvm_lowbit import tune

    print("started", os.getpid(), flush=True)
    tune(Path(sys.argv[1]), FakeBoard(seconds=0.05), trials=30, patience=30, log_dir=Path(sys.argv[2]))


if __name__ == "__main__":
    main()

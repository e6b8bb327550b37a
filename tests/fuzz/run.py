"""``python -m fuzz.run --count 10000 --seed 0`` (with the folder ``tests`` on PYTHONPATH): mutants, judged.

Each is built and run in a worker process with a limit of memory, and of time for each mutant. Whatever is neither a
`LowbitError` nor ONNX Runtime's answer is a finding: its file is kept, and its path printed. Counts and findings are in
``progress.json`` below the folder for findings; the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fuzz.mutate import mutant
from fuzz.progress import Display, State

SECONDS = 20.0
CLEAN = frozenset({"LowbitError", "equal", "near", "undefined", "no oracle"})


class Worker:
    """A worker process; started anew where a mutant ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # or a second line would wait in a buffer that no selector sees
            env=os.environ | {"PYTHONPATH": path, "TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        if self._answer(120.0) != "ready":
            raise RuntimeError("the worker does not start")
        return self._process

    def _answer(self, seconds: float) -> Any:
        """The next line; None if the process has ended, and a TimeoutError if it says nothing.

        Time is the worker's own, not the clock's: on a busy machine a slow answer is no hang. A worker that waits for
        something that never comes uses none, so the clock counts as well, at a tenth.
        """
        assert self._process is not None and self._process.stdout is not None
        used, begun = self._used(), time.monotonic()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            while not waiting.select(1.0):
                if max(self._used() - used, (time.monotonic() - begun) / 10) > seconds:
                    raise TimeoutError
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _used(self) -> float:
        """Seconds of processor time that the worker has taken."""
        assert self._process is not None
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def run(self, seed: int, index: int) -> dict[str, Any]:
        """The outcome of one mutant."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps([seed, index])}\n".encode())
        process.stdin.flush()
        stage = "build"
        while True:
            try:
                answer = self._answer(SECONDS)
            except TimeoutError:
                self.close()
                return self._ended(stage, "hang", f"{stage}: no answer within {SECONDS:g} s of its own time")
            if isinstance(answer, dict):
                return answer
            if answer is None:
                code = process.wait()
                self._process = None
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return self._ended(stage, "crash", f"{stage}: {name}")
            stage = answer

    @staticmethod
    def _ended(stage: str, kind: str, detail: str) -> dict[str, Any]:
        # Once ours has answered, only ONNX Runtime can have crashed or hung.
        return {"kind": kind if stage == "build" else "no oracle", "detail": detail}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True)
class Finding:
    """A mutant with an outcome that is not clean, and where its file is."""

    index: int
    kind: str
    detail: str
    path: Path

    def __str__(self) -> str:
        lines = self.detail.strip().splitlines() or [""]
        return f"{self.path}: {self.kind}: {lines[-1]}"


def campaign(
    indices: range,
    seed: int,
    folder: Path,
    each: Callable[[dict[str, Any]], None] = lambda outcome: None,
) -> Iterator[Finding]:
    """Run mutants; gives the findings, each saved with a text of what happened beside it."""
    worker = Worker()
    try:
        for index in indices:
            outcome = worker.run(seed, index)
            if outcome["kind"] not in CLEAN:
                made = mutant(seed, index)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{seed}-{index}-{outcome['kind']}.onnx"
                path.write_bytes(made.content)
                path.with_suffix(".txt").write_text(f"{made.seed} {made.steps}\n{outcome['detail']}\n")
                yield Finding(index, outcome["kind"], outcome["detail"], path)
            each(outcome)
    finally:
        worker.close()


def main() -> int:
    """Parse, run, print; 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other mutants")
    parser.add_argument("--first", type=int, default=0, help="index of the first")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for findings")
    given = parser.parse_args()
    state = State(given.out, given.seed, given.first, given.count)
    with Display(state) as display:
        if state.done:
            display.say(f"goes on behind {state.done} mutants of {state.path}")

        def each(outcome: dict[str, Any]) -> None:
            state.counts[outcome["kind"]] += 1
            state.save()
            display.advance()

        for finding in campaign(state.left, given.seed, given.out, each):
            state.findings.append(str(finding))
            display.say(str(finding))
        state.save()
        display.say(f"{state.done} mutants: {state.text()}; {len(state.findings)} findings, see {state.path}")
    return 1 if state.findings else 0


if __name__ == "__main__":
    sys.exit(main())

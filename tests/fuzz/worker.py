"""A process that builds and runs mutants: a line of JSON in (seed and index), lines of JSON out.

It first says "build", then "judge" once ours is done, so that a reader knows whose fault a crash was.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

MEMORY = 4 << 30
BATCH = 2


def case(seed: int, index: int, say: Any) -> dict[str, Any]:
    """One mutant's outcome: its kind, and details."""
    import numpy as np

    import tvm_lowbit
    from fuzz.judge import judge
    from fuzz.mutate import mutant

    made = mutant(seed, index)
    row = {"seed": made.seed, "steps": made.steps}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.onnx"
        path.write_bytes(made.content)
        try:
            artifact = tvm_lowbit.build(path, "host", batch=BATCH)
            x = {row.name: inputs(row.shape, index) for row in artifact.manifest.inputs}
            result = artifact.run(x)
        except tvm_lowbit.LowbitError as error:
            return row | {"kind": "LowbitError", "detail": str(error)}
        except BaseException:  # whatever a mutant raises, SystemExit too, is a finding
            return row | {"kind": "exception", "detail": traceback.format_exc()}
    say("judge")
    outputs = {name: np.asarray(value) for name, value in result.outputs.items()}
    try:
        verdict = judge(made.content, x, outputs)
    except Exception:
        return row | {"kind": "no verdict", "detail": traceback.format_exc()}
    return row | {"kind": verdict.kind, "detail": verdict.detail}


def inputs(shape: tuple[int, ...], index: int) -> Any:
    """Multiples of a quarter: codes, ties, and some beyond every range; of a fixed batch, or two of one each."""
    import numpy as np

    r = np.random.default_rng(index)
    x = r.integers(-12, 40, shape) / 4
    return np.where(r.random(shape) < 0.05, x * 1000, x).astype(np.float32)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    os.dup2(1, 2)
    import onnxruntime  # noqa: F401

    import tvm_lowbit  # noqa: F401

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    def say(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    say("ready")
    for line in sys.stdin:
        say("build")
        say(case(*json.loads(line), say))


if __name__ == "__main__":
    main()

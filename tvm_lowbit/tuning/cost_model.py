"""XGBoost on what was measured: which candidates of a space are worth measuring next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.errors import LowbitError
from schedules.problem_key import problem_of
from schedules.techniques import TECHNIQUES
from tvm_lowbit.tuning.records import Candidate, Record

# With fewer figures than this there is nothing to learn from.
LEAST = 6
# It learns anew after so many more.
REFIT = 4
# A wrong or failed candidate counts as so many times slower than the slowest.
PENALTY = 2.0
_PARAMETERS = {"max_depth": 6, "eta": 0.2, "objective": "reg:squarederror", "nthread": 1, "seed": 0, "verbosity": 0}
_ROUNDS = 60

Array = npt.NDArray[np.float32]
Rank = Callable[[Sequence[Candidate]], Array]


def require_xgboost() -> Any:
    """The package.

    Raises
    ------
    LowbitError
        If it is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        hint = "pip install 'tvm_lowbit[tune]'"
        raise LowbitError("tune", "xgboost, which ranks candidates", "not installed", hint) from error
    return xgboost


class CostModel:
    """Learns from records of one board, of any problems: what holds for one layer helps with the next.

    Parameters
    ----------
    core : CoreSpec
        The core that candidates are measured for.
    """

    def __init__(self, core: CoreSpec) -> None:
        self.core = core
        self._learnt: tuple[int, Rank | None] = (0, None)
        self._estimates: dict[tuple[str, str], float] = {}

    def rank(self, records: Sequence[Record]) -> Rank | None:
        """What predicts candidates' costs, lower is faster; None where too little is known.

        It learns anew after every `REFIT` records, so what it says depends on them alone.
        """
        count = len(records) // REFIT * REFIT
        if count != self._learnt[0]:
            self._learnt = count, self._learn(records[:count])
        return self._learnt[1]

    def _learn(self, records: Sequence[Record]) -> Rank | None:
        known = [record for record in records if record.technique in TECHNIQUES]
        costs = [_cost(r.problem, r.cycles) for r in known if r.cycles is not None]
        if len(costs) < LEAST:
            return None
        slowest = max(costs) + math.log(PENALTY)
        labels = [slowest if r.cycles is None else _cost(r.problem, r.cycles) for r in known]
        knobs = sorted({knob for record in known for knob in record.knobs})
        xgboost = require_xgboost()

        def matrix(candidates: Sequence[Candidate]) -> Array:
            return np.array([self._features(candidate, knobs) for candidate in candidates], np.float32)

        table = xgboost.DMatrix(matrix([record.candidate for record in known]), label=np.array(labels, np.float32))
        booster = xgboost.train(_PARAMETERS, table, _ROUNDS)
        return lambda candidates: np.asarray(booster.predict(xgboost.DMatrix(matrix(candidates))))

    def _features(self, candidate: Candidate, knobs: Sequence[str]) -> list[float]:
        """Numbers that stand for a candidate; NaN for a knob that its technique lacks."""
        p, values = _problem(candidate.problem), dict(candidate.knobs)
        mr, nr, tile = (values.get(name, 1) for name in ("mr", "nr", "tile"))
        one = [float(name == candidate.technique) for name in TECHNIQUES]
        blocks = [mr * nr, p.out_width % mr, tile % mr, tile / p.out_width, p.group_out_channels % nr]
        chosen = [values.get(knob, math.nan) for knob in knobs]
        return [*_of_problem(candidate.problem), self._estimate(candidate), *one, *chosen, *blocks]

    def _estimate(self, candidate: Candidate) -> float:
        """The technique's own estimate: the model learns what it leaves out."""
        at = candidate.problem, candidate.technique
        if at not in self._estimates:
            cycles = TECHNIQUES[candidate.technique].cycles(_problem(candidate.problem), self.core)
            self._estimates[at] = _cost(candidate.problem, cycles) if math.isfinite(cycles) else math.nan
        return self._estimates[at]


def _cost(key: str, cycles: float) -> float:
    return math.log(cycles / _problem(key).macs)


@lru_cache(maxsize=4096)
def _problem(key: str) -> DotProblem:
    return problem_of(key)


@lru_cache(maxsize=4096)
def _of_problem(key: str) -> tuple[float, ...]:
    p = _problem(key)
    sizes = (p.out_height, p.out_width, p.group_channels, p.group_out_channels, p.k, p.groups)
    levels = 0 if p.epilogue is None else p.epilogue.levels
    shapes = (p.kernel[0] * p.kernel[1], p.stride[1], max(p.padding), p.a.bits, p.w.bits, levels, p.a.zero_code or 0)
    return (*(math.log2(size) for size in sizes), *map(float, shapes))

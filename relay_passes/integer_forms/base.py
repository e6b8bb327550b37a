"""What a row of `INTEGER_FORMS` is given and gives, and the words that rows share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Accumulated, InRegisters, Known, Quantised, as_accumulated
from relay_passes.moved import Moved
from relay_passes.quant_spec import NoMatch, QuantSpec

# What the report calls codes that one kernel computes from integers in float32 registers.
REGISTERS = "registers"


@dataclass(frozen=True)
class Taken:
    """An operator that has an integer form: what is known of its result, and its float value (None: as it was).

    ``moved`` says of codes that were moved at once what they were before, so that a sum with what was moved likewise
    can be done before.
    """

    known: Known
    value: Any = None
    moved: Moved | None = None


@dataclass
class Layers:
    """What is known while a program is rewritten, and the notes on its layers."""

    declined: dict[str, str]
    explanation: frozenset[str] = frozenset()
    off_grid: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    known: dict[Any, Known] = field(default_factory=dict)
    weights: dict[Any, tuple[npt.NDArray[np.uint8], QuantSpec]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    moves: dict[Any, Moved] = field(default_factory=dict)

    def note_names(self, call: Any) -> None:
        """Remember the names of a call's variables (the model's inputs have no binding of their own)."""
        for var in dataflow.variables(call):
            self.names.setdefault(var, dataflow.name_of(var))

    def stays_float(self, name: str, operator: str, reason: str) -> None:
        """Note why an operator stays float."""
        self.rows[name] = {"op": operator, "reason": reason}

    def in_registers(self, name: str, operator: str, spec: QuantSpec, reason: str) -> None:
        """Note a quantiser whose codes are computed from integers in float32 registers, and why not by thresholds."""
        why = f"codes computed in float32 registers from integers: {reason}"
        self.rows[name] = {"op": operator, "bits": f"A{spec.bits}", "technique": REGISTERS, "why": why}

    def reads_only_known(self, call: Any) -> bool:
        """Whether a call reads nothing but codes, functions of accumulators, what is in registers, and constants."""
        variables = dataflow.variables(call)
        return bool(variables) and all(var in self.known for var in variables)

    def reads_known(self, call: Any) -> bool:
        """Whether a call reads codes or a function of an accumulator."""
        return any(var in self.known for var in dataflow.variables(call))

    def quantised(self, expr: Any) -> Quantised | None:
        """What is known of an expression, if it is codes."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        return known if isinstance(known, Quantised) else None

    def accumulated(self, expr: Any) -> Accumulated | None:
        """What is known of an expression, as a function of an accumulator."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        if isinstance(known, Quantised):
            return as_accumulated(known)
        return known if isinstance(known, Accumulated) else None

    def why_in_registers(self, expr: Any) -> NoMatch | None:
        """The reason why a value is in registers, if it is."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        return NoMatch(known.reason) if isinstance(known, InRegisters) else None

    def moved(self, expr: Any) -> Moved | None:
        """What is known of an expression, if it was moved after it was last known to be one tensor."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        return known if isinstance(known, Moved) else None

    def moved_before(self, expr: Any) -> Moved | None:
        """What codes were that have been moved already; not if they were compared, as fewer codes come out of that."""
        moved = self.moves.get(expr) if isinstance(expr, relax.Var) else None
        return None if moved is None or moved.move.picks else moved

    def why_not_quantised(self, what: str, expr: Any) -> NoMatch:
        """The reason for an operand that should be quantised and is not."""
        name = self.names.get(expr, "") if isinstance(expr, relax.Var) else ""
        detail = f": {name} {self.declined[name]}" if name in self.declined else ""
        moved = self.moved(expr)
        if moved is not None and len(moved.parts) > 1:
            detail = f": {name} brings together tensors that no one quantiser gave"
        return NoMatch(f"its {what} not quantised{detail}")


Form = Callable[[Layers, str, Any, dataflow.Scope], Taken | NoMatch]
NOT_KNOWN = NoMatch("its input is neither codes nor a function of one accumulator")


def scaled(acc: Any, axis: int, bound: int, scale: npt.NDArray[np.float64]) -> Taken:
    """The float32 value ``acc * scale``, rounded once."""
    per_channel = np.atleast_1d(scale)

    def value(accumulators: npt.NDArray[np.int64], row: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (accumulators.astype(np.float64) * per_channel).astype(np.float32)
        return values

    known = Accumulated(acc, axis, bound, value, scale=per_channel)
    return Taken(known, ops.scale_accumulators(acc, per_channel, axis, bound))

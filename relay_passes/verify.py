"""What must hold between the phases; each check raises where a pass broke its promise."""

from __future__ import annotations

from typing import Any

from relay_passes import dataflow, notes, ops
from relay_passes.abstract import NOT_A_NUMBER
from relay_passes.norms import is_norm
from relay_passes.ops import constant, op_name, quant_spec
from relay_passes.quant_spec import NoMatch


def _require(condition: bool, phase: str, name: str, promise: str) -> None:
    if not condition:
        raise AssertionError(f"after {phase}, at {name}: {promise}")


def after_canonicalize(mod: Any) -> None:
    """No batch normalisation with constant statistics is left, and no other one."""
    for binding in dataflow.bindings(mod["main"]):
        value = binding.value
        folded = op_name(value) != "relax.nn.batch_norm" or value.attrs.training
        folded = folded or any(constant(a) is None for a in value.args[1:5])
        _require(folded, "canonicalize", dataflow.name_of(binding.var), "batch norm must be an affine map")
        _require(not is_norm(value), "canonicalize", dataflow.name_of(binding.var), "norms must be written out")


def after_detect(mod: Any) -> None:
    """Weights' quantisers stand on constants directly, not on transposed quantisers."""
    weights: set[Any] = set()
    for binding in dataflow.bindings(mod["main"]):
        value, name = binding.value, dataflow.name_of(binding.var)
        if op_name(value) == ops.FAKE_QUANT and constant(value.args[0]) is not None:
            weights.add(binding.var)
        hidden = op_name(value) == "relax.permute_dims" and value.args[0] in weights
        _require(not hidden, "detect", name, "a weight's quantiser must not hide behind a transposition")


def after_rewrite(mod: Any) -> None:
    """No quantiser of 1 to 8 bits is left in the model but those that give NaN; thresholds count integers.

    Explanations ask quantisers about values that are no layer's.
    """
    said = notes.read(mod)
    rows, explanation = said.get("layers", {}), said.get("explanation", {})
    for binding in dataflow.bindings(mod["main"]):
        value, name = binding.value, dataflow.name_of(binding.var)
        if op_name(value) == ops.FAKE_QUANT:
            float_ = isinstance(quant_spec(value).checked(name), NoMatch)
            float_ |= rows.get(name, {}).get("reason") == NOT_A_NUMBER.reason or name in explanation
            _require(float_, "rewrite", name, "no fake_quant may be left")
        if op_name(value) == ops.REQUANTIZE:
            integer = str(value.args[0].ty.dtype) in ("int32", "uint8")
            _require(integer, "rewrite", name, "no float may stand between accumulator and epilogue")


def after_lower(mod: Any) -> None:
    """No operator is left that only the lowering knows."""
    for binding in dataflow.bindings(mod["main"]):
        gone = op_name(binding.value) not in (ops.DOT, ops.REQUANTIZE, ops.OBSERVE_CODES)
        _require(gone, "lower", dataflow.name_of(binding.var), f"no {op_name(binding.value)} may be left")

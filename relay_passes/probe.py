"""``ProbeQuantizers``: the program also returns the integer codes of every activation quantiser."""

from __future__ import annotations

import json
from typing import Any

from tvm import relax

from relay_passes import dataflow
from relay_passes.ops import FAKE_QUANT, constant, observe_codes, op_name, quant_spec
from relay_passes.quant_spec import NoMatch

ATTRIBUTE = "tvm_lowbit.probes"


def probe(mod: Any) -> Any:
    """Apply the pass, after detection and before rewriting. The attribute ``ATTRIBUTE`` lists the quantisers' names."""
    seen: list[tuple[str, Any]] = []

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        result, name = dataflow.keep(var, value, scope), dataflow.name_of(var)
        is_quantiser = op_name(value) == FAKE_QUANT and constant(value.args[0]) is None
        if is_quantiser and not isinstance(quant_spec(value).checked(name), NoMatch):
            seen.append((name, result))
        return result

    def finish(body: Any, scope: dataflow.Scope) -> Any:
        outputs = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        codes = [scope.emit(observe_codes(result), f"{name}/observed") for name, result in seen]
        return relax.Tuple([*outputs, *codes]) if codes else body

    mod = dataflow.rebuild(mod, visit, finish)
    main = mod["main"].with_attr(ATTRIBUTE, json.dumps([name for name, _ in seen]))
    mod.update_func(mod.get_global_var("main"), main)
    return mod

"""``INTEGER_FORMS``: what each float operator is on codes and accumulators, one file a family.

A row is ``form(layers, name, call, scope) -> Taken or NoMatch(reason)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from relay_passes import dataflow, ops
from relay_passes.integer_forms.base import Form, Layers, Taken
from relay_passes.integer_forms.elementwise import add, clip, commuting, relu, with_constant
from relay_passes.integer_forms.moving import moving
from relay_passes.integer_forms.pooling import adaptive_average, average_pool, mean, resize
from relay_passes.integer_forms.products import product
from relay_passes.integer_forms.pushed import applies, pushed
from relay_passes.integer_forms.quantiser import quantiser
from relay_passes.moved import MOVES
from relay_passes.ops import op_name
from relay_passes.quant_spec import NoMatch

__all__ = ["INTEGER_FORMS", "MOVING", "MULTIPLYING", "Form", "Layers", "Taken", "integer_form"]

# Operators that move values: a reason for what they read is a reason for what they give.
MOVING = frozenset(MOVES)
MULTIPLYING = frozenset({"relax.nn.conv2d", "relax.matmul"})
INTEGER_FORMS: Mapping[str, Form] = MappingProxyType(
    {
        ops.FAKE_QUANT: quantiser,
        "relax.nn.conv2d": product,
        "relax.matmul": product,
        "relax.add": add,
        "relax.subtract": with_constant(np.subtract),
        "relax.multiply": commuting(np.multiply),
        "relax.divide": with_constant(np.divide),
        "relax.nn.relu": relu,
        "relax.clip": clip,
        "relax.nn.avg_pool2d": average_pool,
        "relax.nn.avg_pool1d": average_pool,
        "relax.nn.adaptive_avg_pool1d": adaptive_average,
        "relax.nn.adaptive_avg_pool2d": adaptive_average,
        "relax.mean": mean,
        "relax.sum": mean,
        **dict.fromkeys(MOVES, moving),
        "relax.image.resize2d": resize,
    }
)


def integer_form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """The form of a call of an operator in `INTEGER_FORMS`; after a move, the form of its parts."""
    if applies(layers, call):
        return pushed(INTEGER_FORMS, layers, name, call, scope)
    return INTEGER_FORMS[op_name(call)](layers, name, call, scope)

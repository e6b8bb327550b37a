"""``INTEGER_FORMS``: what each float operator is on codes and accumulators, one file a family.

A row is ``form(layers, name, call, scope) -> Taken or NoMatch(reason)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from relay_passes import dataflow, ops
from relay_passes.integer_forms.base import REGISTERS, Form, Layers, Taken
from relay_passes.integer_forms.elementwise import FUNCTIONS, add, arithmetic, clip, leaky_relu, prelu
from relay_passes.integer_forms.moving import moving
from relay_passes.integer_forms.padding import padded
from relay_passes.integer_forms.pooling import adaptive_average, average_pool, mean, resize
from relay_passes.integer_forms.products import convolution, matmul
from relay_passes.integer_forms.pushed import applies, pushed
from relay_passes.integer_forms.quantiser import quantiser
from relay_passes.integer_forms.transposed import transposed
from relay_passes.moved import MOVES
from relay_passes.ops import op_name
from relay_passes.quant_spec import NoMatch

__all__ = [
    "ELEMENTWISE",
    "INTEGER_FORMS",
    "MOVING",
    "MULTIPLYING",
    "REGISTERS",
    "Form",
    "Layers",
    "Taken",
    "integer_form",
]

# Operators that move values: a reason for what they read is a reason for what they give.
MOVING = frozenset(MOVES)
MULTIPLYING = frozenset(
    {
        "relax.nn.conv1d",
        "relax.nn.conv2d",
        "relax.nn.conv1d_transpose",
        "relax.nn.conv2d_transpose",
        "relax.matmul",
    }
)
# Operators that TVM fuses with what they read and what reads them.
ELEMENTWISE = frozenset(
    {
        *("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.minimum", "relax.maximum"),
        *("relax.clip", "relax.nn.leakyrelu", "relax.nn.prelu", "relax.nn.gelu", "relax.nn.softplus", "relax.sqrt"),
        *("relax.erf", "relax.power", *FUNCTIONS),
    }
)
INTEGER_FORMS: Mapping[str, Form] = MappingProxyType(
    {
        ops.FAKE_QUANT: quantiser,
        "relax.nn.conv1d": convolution,
        "relax.nn.conv2d": convolution,
        "relax.nn.conv1d_transpose": transposed,
        "relax.nn.conv2d_transpose": transposed,
        "relax.matmul": matmul,
        "relax.add": add,
        "relax.subtract": arithmetic(np.subtract),
        "relax.multiply": arithmetic(np.multiply),
        "relax.divide": arithmetic(np.divide),
        "relax.minimum": arithmetic(np.minimum),
        "relax.maximum": arithmetic(np.maximum),
        **FUNCTIONS,
        "relax.nn.leakyrelu": leaky_relu,
        "relax.nn.prelu": prelu,
        "relax.clip": clip,
        "relax.nn.avg_pool2d": average_pool,
        "relax.nn.avg_pool1d": average_pool,
        "relax.nn.adaptive_avg_pool1d": adaptive_average,
        "relax.nn.adaptive_avg_pool2d": adaptive_average,
        "relax.mean": mean,
        "relax.sum": mean,
        **dict.fromkeys(MOVES, moving),
        "relax.nn.pad": padded,
        "relax.image.resize2d": resize,
    }
)


def integer_form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """The integer form of any call, if it has one; after a move, the form of its parts."""
    if op_name(call) not in INTEGER_FORMS:
        return NoMatch("it has no integer form here")
    if applies(layers, call):
        return pushed(INTEGER_FORMS, layers, name, call, scope)
    return INTEGER_FORMS[op_name(call)](layers, name, call, scope)

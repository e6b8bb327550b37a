"""``INTEGER_FORMS``: what each float operator is on codes and accumulators, one file a family.

A row is ``form(layers, name, call, scope) -> Taken or NoMatch(reason)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from relay_passes import ops
from relay_passes.integer_forms.base import REGISTERS, Form, Layers, Taken
from relay_passes.integer_forms.elementwise import FUNCTIONS, add, arithmetic, clip, leaky_relu, prelu
from relay_passes.integer_forms.moving import on_codes
from relay_passes.integer_forms.pooling import average_pool, global_average
from relay_passes.integer_forms.products import product
from relay_passes.integer_forms.quantiser import quantiser

__all__ = ["ELEMENTWISE", "INTEGER_FORMS", "MOVING", "MULTIPLYING", "REGISTERS", "Form", "Layers", "Taken"]

# Operators that move values: a reason for what they read is a reason for what they give.
MOVING = frozenset({"relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims", "relax.nn.max_pool2d"})
MULTIPLYING = frozenset({"relax.nn.conv2d", "relax.matmul"})
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
        "relax.nn.conv2d": product,
        "relax.matmul": product,
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
        "relax.nn.max_pool2d": on_codes,
        "relax.nn.avg_pool2d": average_pool,
        "relax.nn.adaptive_avg_pool2d": global_average,
        "relax.mean": global_average,
        "relax.reshape": on_codes,
        "relax.permute_dims": on_codes,
        "relax.squeeze": on_codes,
        "relax.expand_dims": on_codes,
    }
)

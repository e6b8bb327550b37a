"""``INTEGER_FORMS``: what each float operator is on codes and accumulators, one file a family.

A row is ``form(layers, name, call, scope) -> Taken or NoMatch(reason)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from relay_passes import ops
from relay_passes.integer_forms.base import Form, Layers, Taken
from relay_passes.integer_forms.elementwise import add, clip, commuting, relu, with_constant
from relay_passes.integer_forms.moving import on_codes
from relay_passes.integer_forms.pooling import average_pool, global_average
from relay_passes.integer_forms.products import convolution, matmul
from relay_passes.integer_forms.quantiser import quantiser
from relay_passes.integer_forms.transposed import transposed

__all__ = ["INTEGER_FORMS", "MOVING", "MULTIPLYING", "Form", "Layers", "Taken"]

# Operators that move values: a reason for what they read is a reason for what they give.
MOVING = frozenset({"relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims", "relax.nn.max_pool2d"})
MULTIPLYING = frozenset(
    {
        "relax.nn.conv1d",
        "relax.nn.conv2d",
        "relax.nn.conv1d_transpose",
        "relax.nn.conv2d_transpose",
        "relax.matmul",
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
        "relax.subtract": with_constant(np.subtract),
        "relax.multiply": commuting(np.multiply),
        "relax.divide": with_constant(np.divide),
        "relax.nn.relu": relu,
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

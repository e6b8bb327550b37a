"""Local slopes: what stands for the derivative of a unary operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context
from relay_passes.ops import literal


def secant(context: Context, x: Any, y: Any) -> Any:
    """``(y - y0) / (x - x0)``, 0 where ``x == x0`` exactly: a tiny difference may carry a whole step."""
    dx, dy = context.difference(x), context.difference(y)
    same = context.emit(relax.op.equal(dx, literal(np.float32(0))))
    # Where dx is 0, dy is 0 too, and the quotient with 1 instead is 0.
    over = context.emit(relax.op.where(same, literal(np.float32(1)), dx))
    return context.emit(relax.op.divide(dy, over), "slope")

"""``Slope``: what stands for the derivative of an operator, by the method: a secant to a reference run, or a gradient.

The rules ask for a few things: the slope of a unary operator, what stands for the other factor of a product, where a
maximum's change goes, how a mask steps, and the other run. Formulas in both runs are derivatives where they are one.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.derivatives import DERIVATIVES
from relay_passes.attribution.kernels import max_pool2d_gradient, max_pool2d_input_multiplier
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.smooth import CLOSED
from relay_passes.ops import collapsed, constant, literal, op_name, shape_of


class Slope(abc.ABC):
    """Local slopes of a walk."""

    def telescopes(self, call: Any) -> bool:
        """Whether the slope of an operator may be taken over the unary operator before it, too."""
        return False

    @abc.abstractmethod
    def unary(self, context: Context, call: Any, var: Any) -> Any:
        """The slope of ``var = call(x)``, an expression of x's shape."""

    @abc.abstractmethod
    def middle(self, context: Context, expr: Any) -> Any:
        """What the other factor of a product is multiplied by where ``expr`` stands beside it."""

    @abc.abstractmethod
    def largest(self, context: Context, g: Any, x: Any, x0: Any, pool: Any) -> Any:
        """Real multipliers at the input of a max pooling from those at its output."""

    @abc.abstractmethod
    def other(self, context: Context, expr: Any) -> Any:
        """A value in the run that this one is compared with: itself for derivatives."""

    @abc.abstractmethod
    def step(self, context: Context, change: Any, var: Any) -> Any:
        """The slope of a mask ``var`` over what it was compared by, whose difference ``change()`` gives."""


class Secant(Slope):
    """Differences over differences to the reference run: DeepLIFT's Rescale (1704.02685, section 3.5.2)."""

    def telescopes(self, call: Any) -> bool:
        """Secants do: ``(z - z0) / (y - y0)`` times ``(y - y0) / (x - x0)``; one from a closed form is of that form."""
        return op_name(call) not in CLOSED

    def unary(self, context: Context, call: Any, var: Any) -> Any:
        """``(y - y0) / (x - x0)``, 0 where ``x == x0`` exactly: a tiny difference may carry a whole step."""
        x = call.args[0]
        while x in context.skipped:
            x = context.values[x].args[0]
        dx = context.difference(x)
        if op_name(call) in CLOSED:
            closed = CLOSED[op_name(call)](x, self.other(context, x), var, self.other(context, var), dx, call)
            same = context.emit(relax.op.equal(dx, literal(np.float32(0))))
            return context.emit(relax.op.where(same, literal(np.float32(0)), closed), "slope")
        dy = context.difference(var)
        passes = op_name(call) == "relax.nn.relu" and call.args[0] not in context.skipped
        return self._quotient(context, dy, dx, self._passed(context, var, dy) if passes else None)

    def _passed(self, context: Context, var: Any, dy: Any) -> Any:
        """Whether a ReLU passes both runs: the slope is 1 then, which the quotient is but for rounding of y over dx.

        Where what was added before it is large, or terms cancel, dx is exact and dy is not.
        """
        # Without the reference's values, which the library would have to hold; 0 there is 0 here, exactly.
        start = context.emit(relax.op.subtract(var, dy))
        least = context.emit(relax.op.minimum(var, start))
        return context.emit(relax.op.greater(least, literal(np.float32(0))))

    def _quotient(self, context: Context, dy: Any, dx: Any, one: Any = None) -> Any:
        same = context.emit(relax.op.equal(dx, literal(np.float32(0))))
        # Where dx is 0, dy is 0 too, and the quotient with 1 instead is 0.
        over = context.emit(relax.op.where(same, literal(np.float32(1)), dx))
        if one is not None:
            dy = context.emit(relax.op.where(one, dx, dy))
        return context.emit(relax.op.divide(dy, over), "slope")

    def step(self, context: Context, change: Any, var: Any) -> Any:
        """The whole step over the change, however small that is."""
        return self._quotient(context, context.difference(var), change())

    def other(self, context: Context, expr: Any) -> Any:
        """The reference run's."""
        return context.references[expr] if expr in context.active else expr

    def middle(self, context: Context, expr: Any) -> Any:
        """The mean of both runs: ``a b - a0 b0 = (a - a0) mean(b) + (b - b0) mean(a)``."""
        if expr not in context.active:
            return expr
        both = context.emit(relax.op.add(expr, context.references[expr]), "sum")
        return context.emit(relax.op.multiply(both, literal(np.float32(0.5))), "mean")

    def largest(self, context: Context, g: Any, x: Any, x0: Any, pool: Any) -> Any:
        """The difference goes to the positions that hold the maximum in either run."""
        array = constant(x0)
        small = x0 if array is None else literal(collapsed(array))
        return context.emit(max_pool2d_input_multiplier(g, x, small, pool))


class Gradient(Slope):
    """Derivatives at the input; straight through quantisers (`derivatives`)."""

    def unary(self, context: Context, call: Any, var: Any) -> Any:
        """The row of `DERIVATIVES`."""
        if op_name(call) not in DERIVATIVES:
            raise NotImplementedError("its derivative is not in DERIVATIVES")
        return context.emit(DERIVATIVES[op_name(call)](context, call, var), "slope")

    def middle(self, context: Context, expr: Any) -> Any:
        """Itself."""
        return expr

    def other(self, context: Context, expr: Any) -> Any:
        """Itself."""
        return expr

    def step(self, context: Context, change: Any, var: Any) -> Any:
        """Flat."""
        return context.emit(relax.op.zeros(relax.ShapeExpr(list(shape_of(var))), "float32"), "slope")

    def largest(self, context: Context, g: Any, x: Any, x0: Any, pool: Any) -> Any:
        """All to the first position that holds the maximum."""
        return context.emit(max_pool2d_gradient(g, x, pool))


SECANT, GRADIENT = Secant(), Gradient()

"""``RULES``: how multipliers go backwards through each operator, one family a file.

A rule has the signature of TVM's ``FPrimalGradient``: ``rule(var, call, g, context)`` returns one expression, or None,
for each argument of the call; ``g`` is the multiplier at the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relay_passes.attribution.rules.base import Context, RuleFunction
from relay_passes.attribution.rules.choices import CHOICES
from relay_passes.attribution.rules.composed import COMPOSED
from relay_passes.attribution.rules.linear import LINEAR
from relay_passes.attribution.rules.pooling import POOLING
from relay_passes.attribution.rules.products import PRODUCTS
from relay_passes.attribution.rules.ratios import RATIOS
from relay_passes.attribution.rules.shape import SHAPE
from relay_passes.attribution.rules.stops import STOPS
from relay_passes.attribution.rules.unary import UNARY
from relay_passes.attribution.rules.volumes import VOLUMES

__all__ = ["RULES", "RULES_VERSION", "STOPS", "UNARY", "Context", "RuleFunction", "register"]

# Raised whenever a rule changes what it computes; recorded with every compiled explanation.
RULES_VERSION = 3

_TABLE: dict[str, RuleFunction] = {}
RULES: Mapping[str, RuleFunction] = MappingProxyType(_TABLE)


def register(operator: str, rule: RuleFunction) -> None:
    """Add a row. An operator that has a rule is refused with ``ValueError``."""
    if operator in _TABLE:
        raise ValueError(f"operator {operator!r} has an attribution rule already")
    _TABLE[operator] = rule


for _family in (LINEAR, UNARY, RATIOS, CHOICES, COMPOSED, POOLING, SHAPE, PRODUCTS, VOLUMES):
    for _operator, _rule in _family.items():
        register(_operator, _rule)

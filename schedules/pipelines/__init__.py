"""Execution units of the cores, one core a file: what prices instructions where there is no board."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from schedules.pipelines import cortex_a53, cortex_a72, cortex_a76
from schedules.pipelines.model import KINDS, VECTOR_KINDS, Cost, Pipeline

__all__ = ["KINDS", "PIPELINES", "VECTOR_KINDS", "Cost", "Pipeline"]

PIPELINES: Mapping[str, Pipeline] = MappingProxyType(
    {"cortex-a53": cortex_a53.PIPELINE, "cortex-a72": cortex_a72.PIPELINE, "cortex-a76": cortex_a76.PIPELINE}
)

"""Puts the graphs of other folders on the path; profiles of hypothesis."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parents[1]
for folder in (TESTS / "passes", TESTS / "properties"):
    sys.path.insert(0, str(folder))

# The same 40 graphs each time; with LOWBIT_EXAMPLES=1000, that many others, found anew in each run.
COUNT = os.environ.get("LOWBIT_EXAMPLES")
settings.register_profile(
    "graphs",
    max_examples=int(COUNT or 40),
    derandomize=COUNT is None,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

"""Puts what the tests of this folder share, and the graphs of other folders, on the path."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS / "e2e", TESTS / "passes", TESTS / "matrix"):
    sys.path.insert(0, str(folder))

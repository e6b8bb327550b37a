"""Keeps from the user two warnings of TVM's executable loader: a line without content for every constant."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (b"Warning: Scope Loaded:", b"Warning: Scope Saving:")


@contextmanager
def without_scope_warnings() -> Iterator[None]:
    """While this is open, what C++ writes to stderr is held back; everything but the noise is written at the end."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not any(noise in line for noise in NOISE):
                    os.write(2, line)

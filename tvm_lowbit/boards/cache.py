"""The folder that keeps what is fetched or compiled once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """Return the cache folder; it need not exist yet.

    Returns
    -------
    Path
        ``$TVM_LOWBIT_CACHE``, or the platform's place for caches.
    """
    chosen = os.environ.get("TVM_LOWBIT_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("tvm_lowbit")


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Fill a folder so that others see all of it or nothing.

    Parameters
    ----------
    folder : Path
        The folder to make.

    Yields
    ------
    Path
        An empty folder beside it; it takes the place of `folder` when the block ends without an error.
    """
    # Who asks found something missing, so what is there is the rest of a cache that was swept.
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            # Another process was quicker: what it put there is the same, as the name says all that goes in.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)

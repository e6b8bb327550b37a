"""Where logs and tuned rows are, and how the fastest records become rows that `build` takes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import platformdirs

from schedules import tuned_rows
from schedules.cores import CoreSpec
from schedules.errors import LowbitError
from schedules.problem_key import problem_of
from tvm_lowbit.tuning.records import Record
from tvm_lowbit.tuning.space import taking, worth_trying

LOGS = "tuning_logs"
_NOTE = "Written by `tvm-lowbit tune`, fastest first; cycles of an emulated board are estimates."


def log_folder(asked: Path | None) -> Path:
    """The folder of the logs: what was asked for, ``tuning_logs`` here if there is one, or the platform's place."""
    if asked is not None:
        return asked
    here = Path(LOGS)
    return here if here.is_dir() else platformdirs.user_data_path("tvm_lowbit") / LOGS


def rows_folder(logs: Path) -> Path:
    """The folder of the tuned rows: those shipped where the logs are the checkout's own, else the user's."""
    checkout = tuned_rows.SHIPPED.parents[1] / LOGS
    return tuned_rows.SHIPPED if logs.resolve() == checkout.resolve() else tuned_rows.user_folder()


def promote(folder: Path, core: CoreSpec, problem: str, records: Iterable[Record]) -> Path | None:
    """Write the fastest record of each technique for a problem in the place of the rows that are there.

    Parameters
    ----------
    folder : Path
        Where ``<core>.json`` is.
    core : CoreSpec
        Whose rows.
    problem : str
        Its key.
    records : iterable of Record
        Of one board; only those of this problem that were right count.

    Returns
    -------
    Path or None
        The file; None where nothing was right.

    Raises
    ------
    LowbitError
        If the file cannot be written, or what is there is no file of tuned rows.
    """
    mine = [record for record in records if record.problem == problem]
    best: dict[str, Record] = {}
    for record in mine:
        if _cycles(record) < _cycles(best.get(record.technique)):
            best[record.technique] = record
    if not best:
        return None
    fastest = sorted(best.values(), key=lambda record: (_cycles(record), record.technique))
    near = [record for record in fastest if _cycles(record) <= tuned_rows.NEAR * _cycles(fastest[0])]
    # With those that are too slow to be measured.
    hopeless = set(taking(problem, core)) - set(worth_trying(problem, core))
    tried = sorted({record.technique for record in mine} | hopeless)
    path = folder / f"{core.name}.json"
    try:
        content = json.loads(path.read_text()) if path.exists() else {"problems": {}}
        content["problems"][problem] = {"tried": tried, "rows": [row_of(record, core) for record in near]}
        write(path, {"core": core.name, "note": _NOTE, "problems": content["problems"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"nothing is lost: the logs have it all; {tuned_rows.VARIABLE} names another folder"
        raise LowbitError(str(path), "a file of tuned rows that can be written", str(error), hint) from error
    return path


def _cycles(record: Record | None) -> float:
    return float("inf") if record is None or record.cycles is None else record.cycles


def row_of(record: Record, core: CoreSpec) -> dict[str, Any]:
    """A record as a tuned row."""
    kernel = tuned_rows.fingerprint(record.problem, record.technique, record.knobs, core)
    row = {"technique": record.technique, "knobs": dict(sorted(record.knobs.items())), "cycles": record.cycles}
    return {**row, "board": record.board, "kernel": kernel}


def write(path: Path, content: dict[str, Any]) -> None:
    """All or nothing; a line for each row, so that changes can be read."""
    lines = []
    for key, entry in sorted(content["problems"].items(), key=lambda item: (problem_of(item[0]).macs, item[0])):
        inner = ",\n".join(f"    {json.dumps(row)}" for row in entry["rows"])
        lines.append(f'  {json.dumps(key)}: {{"tried": {json.dumps(entry["tried"])}, "rows": [\n{inner}\n  ]}}')
    head = f'{{\n "core": {json.dumps(content["core"])},\n "note": {json.dumps(content["note"])},\n "problems": {{\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    file, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(file, "w") as out:
            out.write(head + ",\n".join(lines) + "\n }\n}\n")
            out.flush()
            os.fsync(out.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise

"""``markdown``: the tables of `benchmarks`, out of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networks

from schedules.cores import CORES, MISS_SOURCE
from tvm_lowbit.boards.rows import BOARDS

# Layers of each network that the page lists; all are in the results beside it.
LEAST = 3

Rows = Mapping[str, Mapping[str, Any]]
_BOARD = {row.core: row for row in BOARDS.values() if row.core is not None and row.clock is not None}
_VARIANTS = {
    "w2a2": "W2A2, this compiler",
    "fp32": "plain TVM, fp32",
    "tuned": "plain TVM, fp32, tuned",
    "int8": "plain TVM, W8A8 as QDQ",
}
_HOW = """\
All cycles, bytes and misses here are **estimates** by `tvm-lowbit bench`'s meter: no board was measured. One thread,
batch 1, random weights from the seed. Times on this machine, in the last tables, are measured.

- **W2A2**: 2-bit weights and activations, 8-bit input, stem and classifier or heads, exported by Brevitas to QONNX and
  compiled for the board; the second call is counted.
- **plain TVM, fp32**: the same network without quantisers, exported by torch, batch norm folded; TVM's ONNX importer
  and `relax.get_default_pipeline`, which leaves kernels without a schedule. The whole network is emulated at full
  size, nothing is scaled up. Its first call is counted, as each takes minutes: the loops of its kernels do not depend
  on values, so the second call's cycles differ by hundredths of a per cent; misses are those of cold caches, and are
  counted for the smaller networks only.
- **tuned**: the same, each convolution and product with the best of a few schedules that TVM's MetaSchedule drew at
  random from its space for CPUs (`post-order-apply`, `replay-trace`), ranked by this very estimate for {tuned_for};
  each candidate's result is compared with the untuned kernel's. Other kernels stay as they are, and other cores take
  the same schedules. {drawn}
{int8}- **heap** is what the loaded model holds once it has run: weights, activations, work space, of a pool that gives
  nothing back, so this is also its peak. **2-bit layers' constants** are packed weights, thresholds and corrections.
- **with misses** adds, for each line that misses L1, {misses} cycles: {source}. A weak estimate.
"""


def markdown(result: Mapping[str, Any]) -> str:
    """All tables that the rows at hand fill.

    Parameters
    ----------
    result : mapping
        ``seed``, ``versions``, and ``rows`` by key, ``network/core/what`` or ``network/host``.
    """
    rows: Rows = {key: row for key, row in result["rows"].items() if "error" not in row}
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    misses = ", ".join(f"{core.miss:g} ({core.name})" for core in CORES.values() if core.miss is not None)
    how = _HOW.format(
        tuned_for=_tuned_for(rows), drawn=_drawn(rows), int8=_int8(rows), misses=misses, source=MISS_SOURCE
    )
    parts = ["# Benchmarks", "", f"Written by `python -m benchmarks`, seed {result['seed']}; {versions}.", "", how]
    for title, table in _TABLES.items():
        if lines := table(rows):
            parts += [f"## {title}", "", *lines, ""]
    if missing := _missing(result["rows"]):
        parts += ["## Not measured", "", "`python -m benchmarks` measures what is not there yet.", "", *missing, ""]
    return "\n".join(parts)


def _missing(rows: Rows) -> list[str]:
    """What failed, and what was never asked for."""
    lines = [f"- {key}: {row['error']}" for key, row in rows.items() if "error" in row]
    for core in _BOARD:
        for variant, name in _VARIANTS.items():
            absent = [network for network in networks.NETWORKS if f"{network}/{core}/{variant}" not in rows]
            if absent:
                lines.append(f"- {core}, {name}: {', '.join(absent)}")
    return lines


def _tuned_for(rows: Rows) -> str:
    return ", ".join(sorted({core for row in rows.values() for core in row.get("tuned_for", ())})) or "the first core"


def _drawn(rows: Rows) -> str:
    known = [row for key, row in rows.items() if key.endswith("/search")]
    kernels, trials, failed, wrong = (
        sum(row[name] for row in known) for name in ("kernels", "trials", "failed", "wrong")
    )
    return (
        f"{trials} candidates for {kernels} kernels: {failed} did not end in time, {wrong} were wrong. "
        if known
        else ""
    )


def _int8(rows: Rows) -> str:
    known = [row for key, row in rows.items() if key.endswith("/int8")]
    if not known:
        return ""
    floats, integers = (sum(row[name] for row in known) for name in ("float_kernels", "integer_kernels"))
    kernels = f"of its kernels with products, {floats} sum in float and {integers} in integers"
    return f"- **W8A8 as QDQ**: what plain TVM does with an 8-bit network; {kernels}.\n"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(line)} |" for line in lines]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body] if body else []


def _cores(rows: Rows) -> list[str]:
    return [name for name in _BOARD if any(key.split("/")[1] == name for key in rows)]


def _pixels(row: Mapping[str, Any]) -> str:
    return next(text.removeprefix("--size=") for text in row["arguments"] if text.startswith("--size="))


def _millions(row: Mapping[str, Any] | None, name: str = "estimated_cycles") -> str:
    return "" if row is None or row.get(name) is None else f"{row[name] / 1e6:,.1f}"


def _times(row: Mapping[str, Any] | None, ours: Mapping[str, Any], name: str = "estimated_cycles") -> str:
    return "" if row is None or row.get(name) is None else f"{row[name] / ours[name]:.1f}"


def _cycles(rows: Rows) -> list[str]:
    """Of whole networks on each core."""
    head = (
        *("network", "pixels", "core (board)", "W2A2", "ms at the clock", "fp32", "fp32 tuned"),
        *("fp32 / W2A2", "tuned / W2A2", "the same with misses"),
    )
    lines = []
    for core in _cores(rows):
        board = _BOARD[core]
        for network in networks.NETWORKS:
            ours, plain, tuned = (rows.get(f"{network}/{core}/{variant}") for variant in ("w2a2", "fp32", "tuned"))
            if ours is None:
                continue
            lines.append(
                (
                    *(network, _pixels(ours), f"{core} ({board.name})", _millions(ours)),
                    f"{1e3 * ours['estimated_cycles'] / (board.clock or 1):,.1f}",
                    *(_millions(plain), _millions(tuned), _times(plain, ours), _times(tuned, ours)),
                    _times(tuned, ours, "estimated_cycles_with_misses"),
                )
            )
    return _table(head, lines)


def _bytes(rows: Rows) -> list[str]:
    """Moved and missed, beside plain TVM's."""
    head = ("network", "core", "what", "MB loaded", "MB stored", "MB touched", "L1 misses, millions")
    head += ("L2 misses, millions", "million cycles with misses")
    lines = []
    for core in _cores(rows):
        for network in networks.NETWORKS:
            for variant, name in _VARIANTS.items():
                row = rows.get(f"{network}/{core}/{variant}")
                if row is None:
                    continue
                moved = [
                    _millions(row, key)
                    for key in ("bytes_loaded", "bytes_stored", "working_set_bytes", "l1_misses", "l2_misses")
                ]
                lines.append((network, core, name, *moved, _millions(row, "estimated_cycles_with_misses")))
    return _table(head, lines)


def _memory(rows: Rows) -> list[str]:
    """Heap, library, weights."""
    head = ("network", "heap MB, W2A2", "fp32", "1 /", "library MB, W2A2", "fp32", "1 /")
    head += ("2-bit layers' constants MB", "their weights in fp32", "1 /")
    lines = []
    for core in _cores(rows)[:1]:
        for network in networks.NETWORKS:
            ours, plain = rows.get(f"{network}/{core}/w2a2"), rows.get(f"{network}/{core}/fp32")
            if ours is None or plain is None:
                continue
            cells = []
            for key in ("memory_bytes", "library_bytes"):
                cells += [_millions(ours, key), _millions(plain, key), _times(plain, ours, key)]
            packed, full = ours["two_bit_bytes"], ours["two_bit_float_bytes"]
            cells += [f"{packed / 1e6:.2f}", f"{full / 1e6:.2f}", f"{full / max(packed, 1):.1f}"]
            lines.append((network, *cells))
    return _table(head, lines)


def _host(rows: Rows) -> list[str]:
    """Layers on this machine: each network's, and those that gain least."""
    head = ("network", "layers", "slower", "ratio, least", "median", "most", "whole network, ms", "plain TVM fp32, ms")
    head += ("ratio",)
    lines, least, loads = [], [], []
    for key, row in rows.items():
        network, _, what = key.partition("/")
        if what != "host":
            continue
        *layers, whole = row["layers"]
        loads.append(f"{row['load']:g} on {row['cores']} cores ({network})")
        ratios = [layer["ratio"] for layer in layers]
        bounds = (f"{ratio:.1f}" for ratio in (min(ratios), statistics.median(ratios), max(ratios)))
        times = (f"{whole['ours_ms']:,.1f}", f"{whole['theirs_ms']:,.1f}", f"{whole['ratio']:.1f}")
        lines.append((network, str(len(layers)), str(sum(ratio < 1 for ratio in ratios)), *bounds, *times))
        for layer in sorted(layers, key=lambda layer: float(layer["ratio"]))[:LEAST]:
            low, high = layer["quartiles"]
            cells = (network, f"`{layer['layer']}`", layer["bits"], layer["technique"])
            cells += (f"{layer['ours_ms']:.3f}", f"{layer['theirs_ms']:.3f}", f"{layer['ratio']:.1f}")
            least.append((*cells, f"{low:.1f} to {high:.1f}"))
    if not lines:
        return []
    columns = ("network", "layer", "bits", "technique", "ms", "plain TVM fp32, ms", "ratio, median", "quartiles")
    said = f"Load of the machine meanwhile, these measurements included: {', '.join(loads)}."
    intro = f"The {LEAST} layers of each that gain least; all are in the JSON file beside this page:"
    return [*_table(head, lines), "", said, "", intro, "", *_table(columns, least)]


_TABLES: Mapping[str, Callable[[Rows], list[str]]] = {
    "Million cycles, estimated": _cycles,
    "Bytes and misses, estimated": _bytes,
    "Memory and size": _memory,
    "On this machine: paired times of layers": _host,
}

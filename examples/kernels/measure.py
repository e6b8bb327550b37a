"""Estimated multiply-accumulates per cycle of each technique on single layers, packing and epilogue included.

    python examples/kernels/measure.py --meter FOLDER --cores cortex-a72 --widths W2A2 --techniques bit_serial

Compiles the kernel, links it with a small C program into a static aarch64 executable, runs that under qemu-user,
compares what it wrote with the definition, and prices the basic blocks it executed. ``FOLDER`` holds the estimator, a
module ``armmeter`` with ``profile``, ``difference`` and ``estimate``. All figures are estimates, not measurements of a
board.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from schedules import reference
from schedules.cores import CORES, CoreSpec
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import pack
from schedules.techniques import TECHNIQUES

Array = npt.NDArray[Any]


def layer(channels: int, size: int, out: int = 0, kernel: int = 3, stride: int = 1) -> DotProblem:
    """A square convolution that keeps or halves its image; operands come later."""
    padding = (kernel // 2,) * 4
    out = out or channels
    return DotProblem(
        1, size, size, channels, out, Operand(1), Operand(1), (kernel,) * 2, (stride,) * 2, (1, 1), padding
    )


LAYERS: Mapping[str, DotProblem] = {
    "64x56": layer(64, 56),
    "128x28": layer(128, 28),
    "256x14": layer(256, 14),
    "512x7": layer(512, 7),
    "1x1": layer(256, 14, 512, 1),
    "stride2": layer(128, 28, 256, 3, 2),
    "dense": layer(1024, 1, 1024, 1),
}
FOUR = ("64x56", "128x28", "256x14", "512x7")
TERNARY = "ternaryA2"
WIDTHS = ("W1A1", "W1A2", "W2A2", TERNARY, "W3A3", "W4A4", "W8A8")


def with_widths(problem: DotProblem, widths: str) -> DotProblem:
    """Unsigned activations, signed weights (bipolar at one bit), thresholds to the next layer's codes."""
    w, a = (2, 2) if widths == TERNARY else (int(bits) for bits in widths[1:].split("A"))
    weights = Operand(1, 2, -1, uniform=True) if w == 1 else Operand(w, 1, -1 << (w - 1), uniform=True)
    if widths == TERNARY:
        weights = Operand(2, 1, -1, uniform=True, span=(0, 2))
    elif w == 8:
        # Symmetric, as 8-bit weights usually are.
        weights = Operand(8, 1, -128, uniform=True, span=(1, 255))
    return replace(problem, a=Operand(a), w=weights, epilogue=Thresholds(a, (1 << a) - 1))


def arguments(problem: DotProblem, technique: Any) -> tuple[list[Array], Array]:
    """Random arguments of the kernel, and what it must write."""
    p, random = problem, np.random.default_rng(7)
    codes = random.integers(0, p.a.max_code, (p.batch, p.height, p.width, p.channels), np.uint8, endpoint=True)
    least, most = p.w.span or (0, p.w.max_code)
    weights = random.integers(least, most, (p.out_channels, p.group_channels, *p.kernel), np.uint8, endpoint=True)
    offset = np.full(p.out_channels, p.w.offset, np.int32)
    assert p.epilogue is not None
    sums = reference.accumulate(p, codes, weights, offset)
    levels = np.quantile(
        sums.reshape(-1, p.out_channels), np.arange(1, p.epilogue.levels + 1) / (1 << p.a.bits), axis=0
    )
    thresholds = levels.astype(p.threshold_dtype)[None]
    flip = random.integers(0, 2, p.out_channels, np.uint8)
    expected = pack(reference.count_thresholds(sums, thresholds, flip), p.epilogue.out)
    packed = pack(codes, technique.in_layout(p))
    return [packed, *technique.constants(p, weights, offset), thresholds, flip], expected


_C_TYPES = {"uint8": (1, 8), "int8": (0, 8), "int16": (0, 16), "uint16": (1, 16), "int32": (0, 32)}
_PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct {
  void *data; int32_t device, id, ndim; uint8_t code, bits; uint16_t lanes; int64_t *shape, *strides; uint64_t offset;
} Tensor;
typedef struct { int32_t type; uint32_t pad; void *value; } Any;
extern int __tvm_ffi_kernel(void *, Any *, int32_t, Any *);
void TVMFFIErrorSetRaisedFromCStrParts(const char *k, const char **m, int32_t n) {
  for (int i = 0; i < n; i++) fputs(m[i], stderr);
  exit(3);
}
void TVMFFIErrorSetRaisedFromCStr(const char *k, const char *m) { fputs(m, stderr); exit(3); }
void *TVMBackendAllocWorkspace(int d, int i, uint64_t n, int c, int b) { return aligned_alloc(64, (n + 63) / 64 * 64); }
int TVMBackendFreeWorkspace(int d, int i, void *p) { free(p); return 0; }
// The library calls the runtime through pointers that the loader fills in.
extern __attribute__((weak)) void *__TVMBackendAllocWorkspace, *__TVMBackendFreeWorkspace;
#define COUNT %(count)d
%(arrays)s
int main(int argc, char **argv) {
  Tensor tensors[COUNT] = { %(tensors)s };
  Any args[COUNT], result;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = TVMBackendAllocWorkspace;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = TVMBackendFreeWorkspace;
  for (int i = 0; i < COUNT; i++) args[i] = (Any){ 7, 0, &tensors[i] };
  for (int n = atoi(argv[1]); n > 0; n--) if (__tvm_ffi_kernel(0, args, COUNT, &result)) return 2;
  FILE *f = fopen(argv[2], "wb");
  fwrite(tensors[COUNT - 1].data, 1, %(size)d, f);
  return fclose(f);
}
"""


def program(function: Any, core: CoreSpec, arrays: Sequence[Array], folder: Path) -> Path:
    """A static executable; its arguments: how often to call the kernel, and where to write the output."""
    text, tensors = [], []
    for i, array in enumerate(arrays):
        (folder / f"a{i}.bin").write_bytes(array.tobytes())
        section = f'.balign 64\\na{i}: .incbin \\"{folder}/a{i}.bin\\"\\n'
        shape = ", ".join(map(str, array.shape))
        text.append(f'__asm__(".data\\n{section}.text"); extern char a{i}[]; int64_t s{i}[] = {{{shape}}};')
        code, bits = _C_TYPES[str(array.dtype)]
        tensors.append(f"{{a{i}, 1, 0, {array.ndim}, {code}, {bits}, 1, s{i}, 0, 0}}")
    filled = {"count": len(arrays), "arrays": "\n".join(text), "tensors": ", ".join(tensors), "size": arrays[-1].nbytes}
    (folder / "main.c").write_text(_PROGRAM % filled)
    compiled = tvm.compile(
        tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")}), tvm.target.Target(core.target_dict())
    )
    (folder / "kernel.s").write_text(compiled.mod.inspect_source("asm"))

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        command = ["aarch64-linux-gnu-gcc", "-O1", "-w", "-static", "-o", output, str(folder / "main.c"), *objects]
        subprocess.run(command, check=True)

    link.output_format = "so"  # type: ignore[attr-defined] - TVM reads it off the function
    compiled.export_library(str(folder / "program.so"), fcompile=link)
    return folder / "program.so"


def measure(
    meter: Any,
    problem: DotProblem,
    technique: str,
    core: CoreSpec,
    knobs: Mapping[str, int],
    model: str,
    keep: Path | None,
) -> float:
    """Estimated cycles of one call.

    Raises
    ------
    AssertionError
        If the kernel wrote anything but what the definition says.
    """
    row = TECHNIQUES[technique]
    inputs, expected = arguments(problem, row)
    chosen = {**row.knobs(problem, core), "parallel": 0, **knobs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        arrays = [*inputs, np.full_like(expected, 0xA5)]
        executable = program(row.build(problem, chosen, core), core, arrays, folder)
        blocks = [meter.profile([str(executable), str(n), str(folder / "out.bin")], core.name) for n in (0, 1)]
        assert blocks[1][1].returncode == 0, blocks[1][1].stderr
        got = np.frombuffer((folder / "out.bin").read_bytes(), expected.dtype).reshape(expected.shape)
        np.testing.assert_array_equal(got, expected, err_msg=f"{technique} {core.name} {chosen} {problem}")
        executed = meter.difference(blocks[1][0], blocks[0][0])
        if keep:
            _explain(meter, executed, core.name)
        return float(meter.estimate(executed, core.name, model)[0])


def _explain(meter: Any, executed: Mapping[Any, Any], core: str) -> None:
    """The blocks that take most of the estimated cycles, with their instructions."""
    prices, _ = meter.price_silicon(executed, core)
    text = meter.texts(sorted({word for _, _, words in executed.values() for word in words}))
    total = sum(count * prices[words] for count, _, words in executed.values())
    for pc, (count, _, words) in sorted(executed.items(), key=lambda kv: -kv[1][0] * prices[kv[1][2]])[:10]:
        cycles = prices[words]
        print(f"== {pc}: {count} x {cycles:.2f} = {count * cycles / total:.1%}, {len(words)} instructions")
        print("     " + " | ".join(text[word].replace("\t", " ") for word in words)[:1500])


def main(argv: Iterable[str] | None = None) -> None:
    """Print a table for each core: a row per technique and widths, a column per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meter", type=Path, required=True)
    parser.add_argument("--model", default="silicon")
    parser.add_argument("--cores", nargs="+", default=["cortex-a53", "cortex-a72", "cortex-a76"])
    parser.add_argument("--widths", nargs="+", default=WIDTHS)
    parser.add_argument("--layers", nargs="+", default=list(FOUR))
    parser.add_argument("--techniques", nargs="+", default=["bit_serial"])
    parser.add_argument("--knobs", nargs="*", default=[], help="NAME=VALUE")
    parser.add_argument("--keep", type=Path, help="keep program and assembly here, and print where the cycles go")
    options = parser.parse_args(None if argv is None else list(argv))
    sys.path.insert(0, str(options.meter))
    meter = importlib.import_module("armmeter")
    knobs = {name: int(value) for name, _, value in (knob.partition("=") for knob in options.knobs)}
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    print("Estimated multiply-accumulates per cycle, one thread (estimates, not measurements of a board)")
    for core in (CORES[name] for name in options.cores):
        for technique in options.techniques:
            for widths in options.widths:
                figures = []
                for name in options.layers:
                    problem = with_widths(LAYERS[name], widths)
                    reason = TECHNIQUES[technique].declines(problem, core)
                    if reason is not None:
                        print(f"{core.name} {technique} {widths} {name}: declines: {reason}")
                        continue
                    cycles = measure(meter, problem, technique, core, knobs, options.model, options.keep)
                    figures.append((name, problem.macs / cycles, cycles / TECHNIQUES[technique].cycles(problem, core)))
                if figures:
                    row = "  ".join(f"{name} {figure:.2f} (/est {ratio:.2f})" for name, figure, ratio in figures)
                    mean = sum(figure for _, figure, _ in figures) / len(figures)
                    print(f"{core.name} {technique} {widths} mean {mean:.2f}: {row}", flush=True)


if __name__ == "__main__":
    main()

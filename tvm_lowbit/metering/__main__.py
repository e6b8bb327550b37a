"""``python -m tvm_lowbit.metering``: a technique's estimated speed on the 3x3 convolutions of ResNet-18."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from schedules.cores import CORES, CoreSpec
from schedules.counting import LINEAR_LEVELS
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.errors import LowbitError
from schedules.layout import Layout
from schedules.techniques import TECHNIQUES, select
from tvm_lowbit.metering.layers import Candidate, MadeUp, MeteredLayer, meter_layers
from tvm_lowbit.metering.listing import listing
from tvm_lowbit.metering.price import pipeline_of

# Channels and image size.
LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))


def weights_of(bits: str) -> Operand:
    """Weights as networks have them: bipolar for W1, ternary for T, else around zero."""
    if bits == "T":
        return Operand(2, offset=-1, uniform=True, span=(0, 2))
    if bits == "W1":
        return Operand(1, multiplier=2, offset=-1, uniform=True)
    width = int(bits.removeprefix("W"))
    if width == 8:
        return Operand(8, offset=-128, uniform=True, span=(1, 255))  # symmetric, as 8-bit weights usually are
    return Operand(width, offset=-1 << width - 1, uniform=True)


def problem(
    channels: int,
    size: int,
    bits: str,
    *,
    kernel: int = 3,
    stride: int = 1,
    out_channels: int | None = None,
    depthwise: bool = False,
    epilogue: bool = False,
    bipolar: bool = False,
    side: int = 0,
    shift: int | None = None,
    dtype: str | None = None,
) -> DotProblem:
    """A convolution that keeps channels, unless told otherwise, and, at stride 1, the image size."""
    weights, _, width = bits.partition("A")
    activations = int(width)
    levels = (1 << activations) - 1
    # As after a scale and a bias.
    lines = levels > LINEAR_LEVELS and not side
    joined = Layout() if side else None
    thresholds = (
        Thresholds(activations, levels, side, side=joined, lines=lines, shift=shift, dtype=dtype)
        if epilogue or side
        else None
    )
    pad = kernel // 2
    return DotProblem(
        batch=1,
        height=size,
        width=size,
        channels=channels,
        out_channels=out_channels or channels,
        a=Operand(1, multiplier=2, offset=-1) if bipolar and activations == 1 else Operand(activations),
        w=weights_of(weights),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(pad, pad, pad, pad),
        groups=channels if depthwise else 1,
        epilogue=thresholds,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tvm_lowbit.metering", description=__doc__)
    parser.add_argument("--core", default="cortex-a72", choices=[name for name in CORES if CORES[name].is_arm])
    parser.add_argument("--technique", choices=list(TECHNIQUES), help="default: the one that build would take")
    parser.add_argument("--without", nargs="+", default=(), choices=list(TECHNIQUES), help="take none of these")
    parser.add_argument("--bits", nargs="+", default=["W2A2"], help="for example W1A1 W2A2 TA2 (ternary)")
    parser.add_argument("--bipolar", action="store_true", help="1-bit activations stand for -1 and 1, not 0 and 1")
    parser.add_argument("--layer", nargs="+", default=[f"{c}x{s}" for c, s in LAYERS], help="CHANNELSxSIZE")
    parser.add_argument("--out-channels", type=int, help="default: as many as go in")
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--depthwise", action="store_true", help="each channel by itself")
    parser.add_argument("--epilogue", action="store_true", help="write codes by thresholds instead of accumulators")
    parser.add_argument("--side", type=int, default=0, metavar="BITS", help="codes of a residual join of so many bits")
    parser.add_argument(
        "--shift", type=int, help="of accumulators that those codes move; default: they pick thresholds"
    )
    parser.add_argument("--dtype", choices=["int16", "int32"], help="what is counted in; default: what all weights fit")
    parser.add_argument("--knob", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--caches", action="store_true", help="count cache misses too")
    parser.add_argument("--blocks", type=int, default=0, metavar="N", help="list the N hottest blocks of each")
    return parser.parse_args()


def _chosen(p: DotProblem, core: CoreSpec, without: Sequence[str]) -> str:
    """What `build` takes by itself: it knows the weights."""
    return select(MadeUp.of(p).problem, core, without=without).technique.name


def _line(row: MeteredLayer) -> str:
    p, e = row.candidate.problem, row.estimate
    head = f"{p.name} {p.channels:4}x{p.height:<3} {row.candidate.technique:11}"
    if e is None:
        return f"{head} FAILED: {row.failure}"
    text = f"{head} {e.cycles / 1e6:8.3f} Mcycles {row.macs_per_cycle:6.2f} MACs/cycle ({p.macs / e.throughput:6.2f} "
    text += f"without latencies)  {e.instructions / e.cycles:4.2f} instructions/cycle"
    if e.traffic is not None:
        text += f"  L1 misses {e.traffic.l1_misses:,}, L2 {e.traffic.l2_misses:,}"
    return text + ("" if row.exact else "  WRONG RESULT")


def main() -> int:
    """Print an estimate for each layer and width; exit code 1 if a result is wrong."""
    arguments = _arguments()
    core = CORES[arguments.core]
    knobs = {name: int(value) for name, _, value in (knob.partition("=") for knob in arguments.knob)}
    sizes = [(int(channels), int(size)) for channels, _, size in (layer.partition("x") for layer in arguments.layer)]
    spelled = [bits.upper() for bits in arguments.bits for _ in sizes]
    asked = ("kernel", "stride", "out_channels", "depthwise", "epilogue", "bipolar", "side", "shift", "dtype")
    shape = {name: getattr(arguments, name) for name in asked}
    problems = [problem(*size, bits.upper(), **shape) for bits in arguments.bits for size in sizes]

    def technique(p: DotProblem) -> str:
        return arguments.technique or _chosen(p, core, arguments.without)

    try:
        rows = meter_layers([Candidate(p, technique(p), knobs) for p in problems], core, caches=arguments.caches)
    except LowbitError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"estimates for {core.name} ({pipeline_of(core.name).source}), one thread, caches warm")
    for row in rows:
        print(_line(row))
        for hot in row.estimate.hottest[: arguments.blocks] if row.estimate else ():
            print(listing(hot, core.name))
    for bits in arguments.bits:
        speeds = [row.macs_per_cycle for row, name in zip(rows, spelled, strict=True) if name == bits.upper()]
        print(f"{bits.upper()} average {sum(speeds) / max(len(speeds), 1):.2f} MACs/cycle")
    return 0 if all(row.exact for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

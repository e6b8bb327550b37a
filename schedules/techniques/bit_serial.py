"""``bit_serial``: AND two bit planes, count the bits, add; one pass for each pair of planes.

``sum(a w) = sum over planes p, q of 2**(p + q) popcount(a_p AND w_q)`` on unsigned planes (Umuroglu et al., BISMO,
FPL 2018, eq. 1; Cowan et al., CGO 2020); offsets and bipolar codes are corrected afterwards from the sum of the
activation codes. On Armv8 the inner step is AND, CNT, UADALP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, uaddlp, vload, vstore
from schedules.layout import Layout, pack_planes, plane_bytes
from schedules.padding import runs
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows

# A uint16 lane takes the bits of two bytes each step, 16 at the most: 4095 steps fill it with 65520.
MAX_STEPS = 65535 // 16


class BitSerial(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 128 bits of K a step."""

    name = "bit_serial"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """K must fit the 16-bit lanes, and LLVM's UADALP needs an Arm core; others widen by plain additions."""
        steps = row_bytes(problem) // 16
        if steps > MAX_STEPS:
            return f"{steps} steps of 128 bits would overflow a 16-bit lane (at most {MAX_STEPS})"
        return super().declines(problem, core)

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Per output and pair of planes: AND, CNT, UADALP each 128 bits, half a load, and three steps to flush."""
        steps = -(-row_bytes(problem) // 16)
        outputs = problem.macs / problem.k
        pairs = problem.a.bits * problem.w.bits
        step = core.cycles({"and": 1, "cnt": 1, "uadalp": 1, "ldr": 0.5})
        flush = core.cycles({"uadalp": 1, "and": 1})
        return outputs * pairs * (steps * step + flush)

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """A 4 x 4 block keeps 16 accumulators and 8 operands in the 32 registers; x86 has 16 registers."""
        block = 4 if core.is_arm else 2
        limits = {"mr": min(block, problem.out_width), "nr": min(block, problem.group_out_channels)}
        return {**super().knobs(problem, core), **limits}

    def in_layout(self, problem: DotProblem) -> Layout:
        """Bit planes, each group's channels starting at a byte."""
        return Layout("planes", problem.a.bits, problem.groups)

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Weight planes ``(groups, O / groups, bits, row bytes)``, kernel positions outside, channels inside."""
        p = problem
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel)
        planes = pack_planes(grouped.transpose(0, 1, 3, 4, 2), p.w.bits).transpose(0, 1, 4, 2, 3, 5)
        planes = planes.reshape(p.groups, p.group_out_channels, p.w.bits, -1)
        pad = row_bytes(p) - planes.shape[-1]
        return [np.pad(planes, ((0, 0), (0, 0), (0, 0), (0, pad))), *corrections(p, weights, weight_offset)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again, from their planes."""
        p = problem
        used = p.kernel[0] * p.kernel[1] * plane_bytes(p.group_channels)
        planes = constant[..., :used].reshape(p.groups, p.group_out_channels, p.w.bits, *p.kernel, -1)
        bits = np.unpackbits(planes, axis=-1, bitorder="little", count=p.group_channels)
        codes = (bits << np.arange(p.w.bits, dtype=np.uint8)[:, None, None, None]).sum(axis=2, dtype=np.uint8)
        return codes.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """One bit from each plane."""
        p = problem
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        byte = (y * p.kernel[1] + x) * plane_bytes(p.group_channels) + c // 8
        code: Any = const(0, "uint8")
        for q in range(p.w.bits):
            bit = (at(group, channel, q, byte) >> (c % 8).astype("uint8")) & const(1, "uint8")
            code = code | (bit << const(q, "uint8"))
        return code

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        mr, nr = knobs["mr"], knobs["nr"]
        lanes = _ArmLanes() if "asimd" in core.features else _PlainLanes()

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, beta, gamma = constants
            row_runs, column_runs = runs(p)

            def block(n: Any, oy: Any, ox: Any, pixels: int) -> None:
                sums = T.alloc_buffer((pixels, p.out_channels), "int32")
                codes = epilogue.scratch()
                column = T.alloc_buffer((pixels,), "int32")
                for i in range(pixels):
                    T.buffer_store(column, column_runs.at(ox + i), [i])
                with T.serial(0, p.groups) as g:
                    patch = T.alloc_buffer((pixels, p.a.bits, row_bytes(p)), "uint8")
                    code_sum = T.alloc_buffer((pixels,), "int32")
                    for i in range(pixels):
                        gather_patch(p, x, patch, i, n, oy, ox + i, g)
                        sum_codes(p, patch, code_sum, i)
                    whole, rest = divmod(p.group_out_channels, nr)

                    def channels(o: Any, count: int) -> None:
                        dots = lanes.multiply(p, patch, weights, g, o, pixels, count)
                        for i in range(pixels):
                            for j in range(count):
                                c = g * p.group_out_channels + o + j
                                value = dots(i, j) * (p.a.multiplier * p.w.multiplier)
                                value = value + gamma[row_runs.at(oy), column[i], c]
                                if p.needs_code_sum:
                                    value = value + beta[c] * code_sum[i]
                                T.buffer_store(sums, value, [i, c])

                    if whole:
                        with T.serial(0, whole) as index:
                            channels(index * nr, nr)
                    if rest:
                        channels(whole * nr, rest)
                for i in range(pixels):
                    epilogue.write(lambda c, i=i: sums[i, c], codes, n, oy, ox + i)

            with rows(p, knobs) as row:
                n, oy = row // p.out_height, row % p.out_height
                whole, rest = divmod(p.out_width, mr)
                if whole:
                    with T.serial(0, whole) as index:
                        block(n, oy, index * mr, mr)
                if rest:
                    block(n, oy, const(whole * mr), rest)

        weight_shape = (p.groups, p.group_out_channels, p.w.bits, row_bytes(p))
        return frame(p, self.in_layout(p), [(weight_shape, "uint8"), *correction_shapes(p)], body)


def row_bytes(problem: DotProblem) -> int:
    """Bytes of one plane of one patch (or of one output channel's weights), a multiple of 8."""
    used = problem.kernel[0] * problem.kernel[1] * plane_bytes(problem.group_channels)
    return -(-used // 8) * 8


def gather_patch(p: DotProblem, x: Any, patch: Any, i: int, n: Any, oy: Any, ox: Any, g: Any) -> None:
    """Emit the copy of one output pixel's input planes, kernel position by kernel position, into a row of bytes."""
    size = plane_bytes(p.group_channels)
    zero = p.a.zero_code or 0
    with T.grid(*p.kernel, p.a.bits) as (ky, kx, plane):
        iy = oy * p.stride[0] - p.padding[0] + ky * p.dilation[0]
        ix = ox * p.stride[1] - p.padding[1] + kx * p.dilation[1]
        start = (ky * p.kernel[1] + kx) * size
        with T.If(tirx.all(iy >= 0, iy < p.height, ix >= 0, ix < p.width)):
            with T.Then(), T.serial(0, size) as b:
                T.buffer_store(patch, x[n, iy, ix, g, plane, b], [i, plane, start + b])
            with T.Else(), T.serial(0, size) as b:
                # The code of 0.0 in every channel, and zero bits where there is no channel.
                last = (1 << (p.group_channels - 8 * (size - 1))) - 1
                full = tirx.Select(b == size - 1, const(last, "uint8"), const(0xFF, "uint8"))
                bit = (const(zero) >> plane) & const(1)
                T.buffer_store(patch, tirx.Select(bit == 1, full, const(0, "uint8")), [i, plane, start + b])
    used = p.kernel[0] * p.kernel[1] * size
    if used < row_bytes(p):
        with T.grid(p.a.bits, row_bytes(p) - used) as (plane, b):
            T.buffer_store(patch, const(0, "uint8"), [i, plane, used + b])


def sum_codes(p: DotProblem, patch: Any, code_sum: Any, i: int) -> None:
    """Emit ``code_sum[i] =`` the sum of the patch's codes; nothing where no weight has an offset."""
    if not p.needs_code_sum:
        return
    T.buffer_store(code_sum, const(0), [i])
    with T.grid(p.a.bits, row_bytes(p)) as (plane, b):
        ones = tirx.popcount(patch[i, plane, b]).astype("int32") << plane
        T.buffer_store(code_sum, code_sum[i] + ones, [i])


class _ArmLanes:
    """Accumulates in eight 16-bit lanes with UADALP and flushes each pair of planes to four 32-bit lanes."""

    lanes16, lanes32 = 8, 4

    def narrow(self, counts: Any) -> Any:
        return uaddlp(counts, 8, 16)

    def wide(self, sums: Any) -> Any:
        return uaddlp(sums, 4, 32)

    def tail(self, counts: Any) -> Any:
        return uaddlp(counts, 4, 16).astype("uint32x4")

    def multiply(
        self, p: DotProblem, patch: Any, weights: Any, g: Any, o: Any, pixels: int, count: int
    ) -> Callable[[int, int], Any]:
        """Emit the block's dot products; returns the int32 expression for pixel ``i`` and channel ``j``."""
        steps, tail = divmod(row_bytes(p), 16)
        block = [(i, j) for i in range(pixels) for j in range(count)]
        wide_type, narrow_type = f"uint32x{self.lanes32}", f"uint16x{self.lanes16}"
        wide = {ij: T.alloc_buffer((self.lanes32,), "uint32", scope="local") for ij in block}
        for ij in block:
            vstore(T, wide[ij], splat(const(0, "uint32"), self.lanes32), [0], self.lanes32)

        def counts(plane: Any, q: Any, at: Any, size: int) -> dict[tuple[int, int], Any]:
            a = [vload(patch, [i, plane, at], size) for i in range(pixels)]
            w = [vload(weights, [g, o + j, q, at], size) for j in range(count)]
            return {(i, j): tirx.popcount(a[i] & w[j]) for i, j in block}

        with T.grid(p.a.bits, p.w.bits) as (plane, q):
            shift = splat((plane + q).astype("uint32"), self.lanes32)

            def flush(ij: tuple[int, int], value: Any) -> None:
                sums = vload(wide[ij], [0], self.lanes32)
                vstore(T, wide[ij], sums + (value.astype(wide_type) << shift), [0], self.lanes32)

            if steps:
                narrow = {ij: T.alloc_buffer((self.lanes16,), "uint16", scope="local") for ij in block}
                for ij in block:
                    vstore(T, narrow[ij], splat(const(0, "uint16"), self.lanes16), [0], self.lanes16)
                with T.serial(0, steps) as step:
                    for ij, ones in counts(plane, q, step * 16, 16).items():
                        sums = vload(narrow[ij], [0], self.lanes16)
                        vstore(T, narrow[ij], sums + self.narrow(ones).astype(narrow_type), [0], self.lanes16)
                for ij in block:
                    flush(ij, self.wide(vload(narrow[ij], [0], self.lanes16)))
            if tail:
                for ij, ones in counts(plane, q, const(steps * 16), 8).items():
                    flush(ij, self.tail(ones))

        def total(i: int, j: int) -> Any:
            lanes = [wide[i, j][lane].astype("int32") for lane in range(self.lanes32)]
            return sum(lanes[1:], lanes[0])

        return total


class _PlainLanes(_ArmLanes):
    """The same without Arm's pairwise additions: as many wide lanes as narrow ones."""

    lanes16, lanes32 = 16, 16

    def narrow(self, counts: Any) -> Any:
        return counts.astype("uint16x16")

    def wide(self, sums: Any) -> Any:
        return sums.astype("uint32x16")

    def tail(self, counts: Any) -> Any:
        return tirx.Shuffle([counts.astype("uint32x8"), splat(const(0, "uint32"), 8)], list(range(16)))

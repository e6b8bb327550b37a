"""Counting blocks by QEMU's log of what it translates and executes, where QEMU takes no plugins.

Gives what count_blocks.c gives, some ten times slower and without caches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tvm_lowbit.metering.counts import OUTSIDE, Block, Call, Counts, Segment

# QEMU's own items: the code of each block when it is translated, each execution of one, and system calls.
ITEMS = "in_asm,exec,nochain,strace"
# As in markers.h.
_MARKER, _ENTRY, _BEGIN = 0x4C4F57, 1, 2
_SPELL, _SPELL_BITS, _VALUE_BITS, _SPELLED = 0x40000000, 20, 16, 4
_SYSCALL = re.compile(r"Unknown syscall (\d+)")
_INSTRUCTION = re.compile(r"0x([0-9a-f]+): +(?:([0-9a-f]{8})(?![0-9a-f]))?")
_RAW = "OBJD-T: "


class LogReader:
    """Reads a log line by line into `Counts`.

    Parameters
    ----------
    counts : Counts
        Gains a segment whenever one ends.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        self._blocks: list[Block] = []
        self._current: dict[str, int] = {}  # address, as the log writes it, to the block translated last
        self._entries: dict[int, int] = {}
        self._digits: list[int] = []
        self._segment: Segment | None = None
        self._number = 0
        self._depth = self._kernel_depth = 0
        self._call = Call(OUTSIDE)

    def read(self, lines: Iterable[str]) -> None:
        """Read to the end."""
        address, words, raw = "", [], ""
        for line in lines:
            if line.startswith("Trace "):
                if self._segment is not None:
                    self._execute(line.partition("/")[2].partition("/")[0])
            elif line.startswith("0x"):
                found = _INSTRUCTION.match(line)
                if found is not None:
                    address = address or found[1]
                    words += [int(found[2], 16)] if found[2] else []
            elif line.startswith(_RAW):  # without a disassembler: bytes, in the order of memory
                raw += line[len(_RAW) :].strip()
            elif address and not line.strip():
                data = bytes.fromhex(raw)
                words += [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
                self._translate(int(address, 16), tuple(words))
                address, words, raw = "", [], ""
            elif "Unknown syscall" in line:
                found = _SYSCALL.search(line)
                self._marked(int(found[1]) if found else 0)

    def _translate(self, address: int, words: tuple[int, ...]) -> None:
        number = self._numbers.setdefault((address, words), len(self._blocks))
        if number == len(self._blocks):
            self._blocks.append(Block(address, words))
        self._current[f"{address:016x}"] = number

    def _execute(self, address: str) -> None:
        number = self._current[address]
        block, call = self._blocks[number], self._call
        if call.kernel == OUTSIDE and block.address in self._entries:
            self._switch(self._entries[block.address])
            self._kernel_depth, call = self._depth, self._call
        call.counts[number] = call.counts.get(number, 0) + 1
        last = block.words[-1]
        if last & 0xFC000000 == 0x94000000 or last & 0xFFFFFC1F == 0xD63F0000:  # BL, BLR
            self._depth += 1
        elif last & 0xFFFFFC1F == 0xD65F0000:  # RET
            self._depth -= 1
            if call.kernel != OUTSIDE and self._depth < self._kernel_depth:
                self._switch(OUTSIDE)

    def _switch(self, kernel: int) -> None:
        """What runs from here on belongs to another call."""
        if self._segment is not None and self._call.counts:
            self._segment.calls.append(self._call)
            for number in self._call.counts:
                self._segment.blocks[number] = self._blocks[number]
        self._call = Call(kernel)

    def _marked(self, number: int) -> None:
        if number >= _SPELL:
            self._digits.append(number - _SPELL)
        elif number == _MARKER and self._segment is not None:
            self._switch(OUTSIDE)
            self._counts.segments[self._number] = self._segment
            self._segment = None
        elif number == _MARKER and len(self._digits) >= _SPELLED:
            head, *digits = self._digits[-_SPELLED:]
            what, value = head >> _VALUE_BITS, head & (1 << _VALUE_BITS) - 1
            if what == _ENTRY:
                self._entries[sum(digit << _SPELL_BITS * i for i, digit in enumerate(digits))] = value
            elif what == _BEGIN:
                self._segment, self._number, self._call = Segment(), value, Call(OUTSIDE)
                self._depth = 0
            self._digits.clear()

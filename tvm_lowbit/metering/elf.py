"""Names of the functions of a shared library, from its ELF file."""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from pathlib import Path

_SYMBOL = struct.Struct("<IBBHQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_TABLES = {2: "symtab", 11: "dynsym"}
_FUNCTION = 2


@dataclass(frozen=True)
class Symbols:
    """Functions of one library, by address."""

    addresses: tuple[int, ...]
    names: tuple[str, ...]

    def name_at(self, address: int) -> str | None:
        """The function that begins at or before an address, None if there is none."""
        place = bisect.bisect_right(self.addresses, address) - 1
        return self.names[place] if place >= 0 else None


def read_symbols(path: Path) -> Symbols:
    """The defined functions of a 64-bit little-endian ELF file.

    Parameters
    ----------
    path : Path
        The file; one that is none has no symbols.

    Returns
    -------
    Symbols
    """
    image = path.read_bytes()
    if image[:6] != b"\x7fELF\x02\x01":
        return Symbols((), ())
    start, count = struct.unpack_from("<Q", image, 40)[0], struct.unpack_from("<H", image, 60)[0]
    sections = [_SECTION.unpack_from(image, start + i * _SECTION.size) for i in range(count)]
    found: dict[int, str] = {}
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind in _TABLES:
            texts = sections[link][4]
            for at in range(offset, offset + size, _SYMBOL.size):
                name, flags, _, section, value, _ = _SYMBOL.unpack_from(image, at)
                if flags & 15 == _FUNCTION and section != 0:
                    text = image[texts + name : image.index(b"\0", texts + name)].decode(errors="replace")
                    found.setdefault(value, text)
    addresses = tuple(sorted(found))
    return Symbols(addresses, tuple(found[address] for address in addresses))

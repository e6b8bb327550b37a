"""How `ordered_column` makes sums of the bytes in which it counts: eight channels to a vector of 16-bit numbers.

A channel has a vector of bytes for each class, the sum of the numbers of two planes.
"""

from __future__ import annotations

CHANNELS, TREE = 8, 3


def widened(to: int, own: int, classes: int, powers: int) -> list[str]:
    """The bytes of all classes to 16-bit lanes, times their powers of two."""
    lines = [f"uaddlp v{own + total}.8h, v{own + total}.16b" for total in range(1, classes)]
    lines.append(f"uaddlp v{to}.8h, v{own}.16b")
    return [*lines, *(f"mla v{to}.8h, v{own + total}.8h, v{powers}.h[{total}]" for total in range(1, classes))]


def of_channel(channel: int, own: int, tree: int, classes: int, powers: int) -> list[str]:
    """A channel's bytes to 16-bit lanes; then, as in counting to eight, sums of neighbours."""
    lines = widened(tree if channel % 2 == 0 else own, own, classes, powers)
    done, level = channel + 1, 0
    first, second, third = tree, tree + 1, tree + 2
    while done % 2 == 0:
        done, level = done // 2, level + 1
        if level == 1:
            to = second if channel % 4 == 1 else first
            lines.append(f"addp v{to}.8h, v{first}.8h, v{own}.8h")
        elif level == 2:
            to = third if channel % 8 == 3 else first
            lines.append(f"addp v{to}.8h, v{second}.8h, v{first}.8h")
        else:
            lines.append(f"addp v{first}.8h, v{third}.8h, v{first}.8h")
            break
    return lines


def joined(even: int, odd: int, classes: int) -> list[str]:
    """Two channels' bytes, sums of neighbours, to the registers of the second one; bytes must hold twice a count."""
    return [f"addp v{odd + total}.16b, v{even + total}.16b, v{odd + total}.16b" for total in range(classes)]


def of_pair(pair: int, own: int, tree: int, classes: int, powers: int) -> list[str]:
    """The same as `of_channel` of two joined channels."""
    lines = widened(own if pair % 2 else tree + pair // 2, own, classes, powers)
    if pair % 2:
        lines.append(f"addp v{tree + pair // 2}.8h, v{tree + pair // 2}.8h, v{own}.8h")
    return [*lines, f"addp v{tree}.8h, v{tree}.8h, v{tree + 1}.8h"] if pair == CHANNELS // 2 - 1 else lines

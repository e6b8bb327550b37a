"""``interleaved``: both streams whole, in their order where it matters, and nothing put where it must wait."""

from __future__ import annotations

from schedules.interleave import interleaved


def test_each_is_put_where_it_need_not_wait() -> None:
    vector = [f"mla v{i}.8h, v30.8h, v0.h[1]" for i in range(1, 13)]
    general = ["ldr x0, [x1, #0]", "mul x2, x0, x0", "madd x3, x4, x4, x3", "extr x5, x5, x2, #56"]
    lines = interleaved(vector, general)
    assert sorted(lines) == sorted([*vector, *general])
    assert [line for line in lines if line in vector] == vector
    found = [lines.index(line) for line in general]
    # What does not depend on the load overtakes what does; each product is there when it is used.
    assert found[0] < found[1] < found[3] and found[2] < found[1]
    # Three cycles to load, four to multiply: as many vector operations stand between.
    for first, second, cycles in ((0, 1, 3), (1, 3, 4)):
        assert sum(line in vector for line in lines[found[first] : found[second]]) >= cycles


def value(lines: list[str]) -> str:
    """What x4 holds in the end, as the text of a computation."""
    held: dict[str, str] = {}
    for line in lines:
        name, _, operands = line.partition(" ")
        to, *read = operands.split(", ", 1)[0], *operands.split(", ")[1:]
        held[to] = f"{name}({', '.join(held.get(each, each) for each in read)})"
    return held["x4"]


def test_registers_are_not_overwritten_before_they_are_read() -> None:
    general = []
    for i in range(6):
        general += [f"ldr x2, [x0, #{8 * i}]", "mul x3, x2, x2", "extr x4, x4, x3, #56"]
    vector = [f"mla v{8 + i % 8}.8h, v30.8h, v0.h[1]" for i in range(9)]
    lines = interleaved(vector, general)
    assert len(lines) == len(vector) + len(general)
    among = [line for line in lines if line in general]
    assert value(among) == value(general) and among != general


def test_a_load_and_a_move_to_an_upper_half_share_a_cycle() -> None:
    vector = ["ldr d1, [x9, #0]", "ins v2.d[1], x3", "mla v4.8h, v5.8h, v0.h[0]", "mla v6.8h, v5.8h, v0.h[0]"]
    lines = interleaved(vector, ["add x6, x6, #1", "add x7, x7, #1"])
    assert lines == [*vector[:3], "add x6, x6, #1", vector[3], "add x7, x7, #1"]

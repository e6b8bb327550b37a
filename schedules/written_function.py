"""Assembly that is written out instruction by instruction, as an LLVM function that is inlined where it is called."""

from __future__ import annotations

from collections.abc import Sequence


def written_function(
    name: str,
    instructions: Sequence[str],
    kind: str,
    results: Sequence[int],
    bases: Sequence[str],
    clobbered: Sequence[str],
    ends: int = 0,
    once: bool = False,
) -> str:
    """The text of an LLVM function of addresses, and of a place for each vector that it makes.

    Parameters
    ----------
    name : str
        The function's.
    instructions : sequence of str
        The assembly.
    kind : str
        LLVM's type of what it makes, a vector of 128 bits.
    results : sequence of int
        Numbers of the vector registers in which it leaves them.
    bases : sequence of str
        General registers in which it gets the addresses; it may write to them.
    clobbered : sequence of str
        All other registers that it writes to.
    ends : int
        Addresses after those, of the last elements of buffers that the function writes to: it does not use them, but
        TVM gives a buffer no more memory than it sees in use.
    once : bool
        Whether loops around it must stay loops: LLVM takes it for one instruction, however long it is.

    Returns
    -------
    str
        LLVM IR.
    """
    number = len(results)
    made = f"{{{', '.join([kind] * number + ['ptr'] * len(bases))}}}"
    # The bases are written to: outputs tied to the inputs.
    outputs = [*(f"={{v{i}}}" for i in results), *(f"={{{base}}}" for base in bases)]
    ties = [str(number + i) for i in range(len(bases))]
    constraints = ",".join([*outputs, *ties, *(f"~{{{each}}}" for each in (*clobbered, "cc", "memory"))])
    addresses = ", ".join(f"ptr %{letter}" for letter in "awtu"[: len(bases)])
    parameters = ", ".join([addresses, *(f"ptr %e{i}" for i in range(ends)), *(f"ptr %p{i}" for i in range(number))])
    text = "\\0A".join(instructions)
    lines = [
        f"define internal i32 @{name}({parameters}) alwaysinline nounwind {{",
        f'  %r = call {made} asm sideeffect "{text}", "{constraints}"({addresses}){" noduplicate" * once}',
    ]
    for i in range(number):
        lines.append(f"  %s{i} = extractvalue {made} %r, {i}")
        lines.append(f"  store {kind} %s{i}, ptr %p{i}, align 16")
    return "\n".join([*lines, "  ret i32 0", "}"]) + "\n"

"""The one exception this project raises on purpose.

It lives in the innermost package because all three raise it; users import it as ``tvm_lowbit.LowbitError``.
"""

from __future__ import annotations


class LowbitError(Exception):
    """A failure a user can act on.

    Parameters
    ----------
    where : str
        The layer, file, argument or stage at fault.
    expected : str
        What would have been accepted.
    got : str
        What was found instead.
    hint : str
        The next thing to try; empty if there is none.
    """

    def __init__(self, where: str, expected: str, got: str, hint: str = "") -> None:
        self.where, self.expected, self.got, self.hint = where, expected, got, hint
        lines = [f"{where}: expected {expected}, got {got}"]
        if hint:
            lines.append(f"hint: {hint}")
        super().__init__("\n".join(lines))

"""The group of all commands: failures that are for users become an error and a hint."""

from __future__ import annotations

import signal
from typing import Any

import click

from tvm_lowbit import LowbitError
from tvm_lowbit.cli.screen import plain


class Group(click.Group):
    """Commands whose failures are for users: an error and a hint, no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is not for users is raised on."""
        interrupts: list[int] = []

        def note(number: int, frame: Any) -> None:
            interrupts.append(number)
            raise KeyboardInterrupt

        # Noted, because TVM turns an interrupt inside its passes into a RuntimeError that says nothing.
        previous = signal.getsignal(signal.SIGINT)
        if previous is signal.default_int_handler:  # in the background it may be ignored
            signal.signal(signal.SIGINT, note)
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts or isinstance(error, KeyboardInterrupt):
                click.echo("stopped", err=True)
                ctx.exit(130)  # 128 + SIGINT, as shells have it
            if not isinstance(error, LowbitError):
                raise
            click.echo(click.style("error: ", fg="red", bold=True) + plain(str(error)), err=True)
            ctx.exit(2)
        finally:
            signal.signal(signal.SIGINT, previous)

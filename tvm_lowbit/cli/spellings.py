"""``tvm-lowbit spellings``."""

from __future__ import annotations

import click

from tvm_lowbit.cli.options import examples
from tvm_lowbit.cli.screen import show
from tvm_lowbit.spellings import listings, markdown


@click.command("spellings", epilog=examples("spellings", "spellings --markdown > docs/spellings.md"))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the document that docs/ holds. Default: no.")
def spellings_command(as_markdown: bool) -> None:
    """List what is recognised, and what declined."""
    if as_markdown:
        click.echo(markdown(), nl=False)
    else:
        show(*(listing.table() for listing in listings()))

"""``tvm-lowbit``: parses and prints, decides nothing; one command a file."""

from __future__ import annotations

import click

from tvm_lowbit.cli.bench import bench_command
from tvm_lowbit.cli.build import build_command
from tvm_lowbit.cli.demo import demo_command
from tvm_lowbit.cli.explain import explain_command
from tvm_lowbit.cli.group import Group
from tvm_lowbit.cli.inspect import inspect_command
from tvm_lowbit.cli.run import run_command
from tvm_lowbit.cli.spellings import spellings_command
from tvm_lowbit.cli.tune import tune_command

COMMANDS = (
    build_command,
    run_command,
    inspect_command,
    explain_command,
    spellings_command,
    bench_command,
    tune_command,
    demo_command,
)


@click.group("tvm-lowbit", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation.

    MODEL is an ONNX file with fake quantisers; BUNDLE a folder that `build` wrote. Exit code 2: what was given cannot
    be served; the message says where, expected, got and a hint.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line; the entry point of ``tvm-lowbit``."""
    cli(prog_name="tvm-lowbit")

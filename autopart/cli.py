"""The command line: a file of `commands/` for each command.

torch is imported only by the commands that need a model; the others and `--help` start without it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import iter_modules

from autopart import commands
from autopart.errors import AutopartError
from cost_models.errors import CostModelFileError, UnknownCostModelError

_FAILED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`; return the exit code: 0, or 2 where the command cannot be carried out."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], str] = arguments.command
    try:
        print(command(arguments))
    except (AutopartError, CostModelFileError, UnknownCostModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "autopart", description="Find the fastest way to split a PyTorch model over devices."
    )
    parser.add_argument("--version", action="version", version=f"autopart {_version()}")
    known = parser.add_subparsers(required=True, metavar="COMMAND")
    for file in iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{file.name}").add(known)
    return parser


def _version() -> str:
    try:
        return version("autopart")
    except PackageNotFoundError:
        return "(not installed)"

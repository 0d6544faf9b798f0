"""autopart diff: compare two saved plans."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diff", help="compare two saved plans", description="What differs between two saved plans, and what it costs."
    )
    parser.add_argument("first", metavar="A.json", help="a saved plan")
    parser.add_argument("second", metavar="B.json", help="another, compared with the first")
    parser.set_defaults(command=_diff)


def _diff(arguments: argparse.Namespace) -> str:
    from autopart.report.diff import diff
    from autopart.report.load import load_plan

    return diff(load_plan(arguments.first), load_plan(arguments.second))

"""autopart why: explain a saved plan."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "why",
        help="explain a saved plan",
        description="Where the seconds and the memory of a plan go, and what each of its decisions is worth.",
    )
    parser.add_argument("plan", metavar="PLAN.json", help="what 'autopart plan --save' or plan.save() wrote")
    parser.set_defaults(command=_why)


def _why(arguments: argparse.Namespace) -> str:
    from autopart.report.load import load_plan

    return load_plan(arguments.plan).explain()

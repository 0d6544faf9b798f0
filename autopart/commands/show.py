"""autopart show: print a saved plan."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("show", help="print a saved plan", description="Print a saved plan.")
    parser.add_argument("plan", metavar="PLAN.json", help="what 'autopart plan --save' or plan.save() wrote")
    parser.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> str:
    from autopart.report.load import load_plan

    return str(load_plan(arguments.plan))

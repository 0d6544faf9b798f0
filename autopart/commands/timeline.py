"""autopart timeline: draw a saved plan's schedule."""

import argparse

from autopart.arguments import positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "timeline",
        help="draw the predicted timeline of a saved plan",
        description="Play a plan's schedule out with its predicted times: a row a rank of the pipeline, a box a pass.",
    )
    parser.add_argument("plan", metavar="PLAN.json", help="what 'autopart plan --save' or plan.save() wrote")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=".svg or .png for a picture, .json for Perfetto or Chrome"
    )
    parser.add_argument(
        "--micro-batches", type=positive, metavar="N", help="draw a step of so many; default: all of the plan's"
    )
    parser.set_defaults(command=_timeline)


def _timeline(arguments: argparse.Namespace) -> str:
    from autopart.report.load import load_plan

    load_plan(arguments.plan).save_timeline(arguments.output, arguments.micro_batches)
    return f"saved {arguments.output}"

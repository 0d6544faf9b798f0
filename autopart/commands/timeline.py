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
    from autopart.report.predicted_timeline import predicted_timeline
    from autopart.report.quantity import percent, seconds
    from autopart.report.save_timeline import save_timeline

    plan = load_plan(arguments.plan)
    count = arguments.micro_batches or plan.micro_batches
    timeline = predicted_timeline(plan, count)
    save_timeline({f"{plan.model}, {plan.schedule}, pp {plan.pp}, {count} micro-batches": timeline}, arguments.output)
    took = f"{seconds(timeline.step_s)}, bubble {percent(timeline.bubble_fraction)}"
    return f"saved {arguments.output}: {count} micro-batches on {plan.pp} ranks of the pipeline, {took}"

"""autopart sweep: plan a model for several clusters and numbers of devices."""

import argparse

from autopart.arguments import (
    TARGET,
    add_capture_options,
    add_search_options,
    amount,
    counts,
    load_ruled_model,
    names,
    pins_of,
    positive,
)
from autopart.errors import PinError, PlanningError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep",
        help="plan a model for several clusters and numbers of devices",
        description=f"Capture a model once, and search for the best plan at each point.\n\n{TARGET}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="which model; see above")
    parser.add_argument("--world", type=counts, required=True, metavar="N,M", help="numbers of devices")
    parser.add_argument(
        "--cluster", type=names, default=("dgx-h100",), metavar="A,B", help="names or paths (default: dgx-h100)"
    )
    parser.add_argument("--global-batch", type=positive, metavar="B", help="samples a step, for all")
    add_capture_options(parser)
    parser.add_argument("--tokens", type=amount, metavar="T", help="to train on, as 1e12: prints GPU-hours")
    parser.add_argument(
        "--price", type=amount, metavar="P", help="of a GPU for an hour, with --tokens: prints the cost"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the sweep into a .png or .svg file")
    add_search_options(parser)
    parser.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> str:
    from autopart.planning import Pins, check_names, make_plan
    from autopart.report.sweep import Budget, SweepPoint, sweep_table
    from autopart.report.sweep_plot import check_plot, sweep_plot

    if arguments.price is not None and arguments.tokens is None:
        raise PinError("--price needs --tokens, the number of tokens to train on")
    if arguments.plot is not None:
        check_plot(arguments.plot)
    pins = Pins(**pins_of(arguments))
    for cluster in arguments.cluster:
        check_names(cluster, pins)
    ruled = load_ruled_model(arguments)
    points, budget = [], Budget(arguments.tokens, arguments.price)
    for cluster, world in [(x, y) for x in arguments.cluster for y in arguments.world]:
        try:
            plan = make_plan(ruled, world, cluster, arguments.global_batch, pins)
            points.append(SweepPoint(cluster, world, plan))
        except PlanningError as error:
            points.append(SweepPoint(cluster, world, None, str(error)))
    if arguments.plot is not None:
        sweep_plot(points, arguments.plot, budget)
    return sweep_table(points, budget)

"""autopart plan: plan a model for a number of devices."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autopart.arguments import (
    GRAPH,
    TARGET,
    add_capture_options,
    add_search_options,
    load_model,
    load_ruled_model,
    pins_of,
    positive,
    warnings_in_a_line,
)

if TYPE_CHECKING:
    from autopart.report.printed_plan import Plan

EXAMPLES = """examples
  autopart plan hf:config.json --world 64 --cluster dgx-h100 --global-batch 512 --save plan.json
  autopart plan my_model.py:build --world 8 --tp 2 --recompute full
  autopart show plan.json
  autopart why plan.json
  autopart diff plan.json other.json
  autopart timeline plan.json --output timeline.svg
  autopart capture hf:config.json --save graph.json && autopart plan graph:graph.json --world 64
  autopart sweep hf:config.json --world 64,128,256 --cluster dgx-h100,dgx-a100 --tokens 1e12 --price 2.5"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="plan a model for a number of devices",
        description=TARGET,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="which model; see above")
    parser.add_argument("--world", type=positive, required=True, metavar="N", help="number of devices")
    parser.add_argument(
        "--cluster", metavar="NAME", help="a name that 'autopart clusters' lists, or the path of a .toml file"
    )
    parser.add_argument("--global-batch", type=positive, metavar="B", help="samples a step")
    add_capture_options(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a model that mixes the samples of a batch, as a batch norm does; else the plan notes it",
    )
    add_search_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--save", metavar="FILE", help="write the plan to this file")
    output.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace) -> str:
    from autopart.ir.plan_json import plan_to_json

    pins = pins_of(arguments)
    plan = _of_graph(arguments, pins) if arguments.target.startswith(GRAPH) else _of_model(arguments, pins)
    if arguments.save is not None:
        plan.save(arguments.save)
        print(f"saved {arguments.save}", file=sys.stderr)
    return json.dumps(plan_to_json(plan), indent=1) if arguments.json else str(plan)


def _of_model(arguments: argparse.Namespace, pins: Mapping[str, Any]) -> "Plan":
    from autopart import api

    model, inputs = load_model(arguments)
    with warnings_in_a_line():
        return api.plan(
            model,
            world=arguments.world,
            cluster=arguments.cluster,
            global_batch=arguments.global_batch,
            inputs=inputs,
            front_end=arguments.front_end,
            keep_whole=arguments.keep_whole,
            strict=arguments.strict,
            **pins,
        )


def _of_graph(arguments: argparse.Namespace, pins: Mapping[str, Any]) -> "Plan":
    """From a saved graph, without torch."""
    from autopart.planning import Pins, check_names, make_plan
    from autopart.sharding.strict import refuse_mixing

    check_names(arguments.cluster, Pins(**pins))
    ruled = load_ruled_model(arguments)
    if arguments.strict:
        refuse_mixing(ruled.folded.source.name, ruled.batch)
    return make_plan(ruled, arguments.world, arguments.cluster, arguments.global_batch, Pins(**pins))

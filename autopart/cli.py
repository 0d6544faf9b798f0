"""The command line: plan a model, show a saved plan, list the clusters, measure this machine.

torch is imported only by the commands that need a model; `show`, `diff`, `clusters` and `--help` start without it.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from autopart.errors import AutopartError, PinError, PlanningError
from cost_models.errors import CostModelFileError, UnknownCostModelError

if TYPE_CHECKING:
    from torch import nn

_FAILED = 2
_TARGET = """TARGET is one of
  file.py:function           called without arguments; returns a model, or (model, example batch)
  package.module:function    the same
  hf:DIRECTORY-OR-CONFIG     a local Hugging Face config.json or the directory it is in
The model is made on the meta device: nothing is allocated, nothing is downloaded, no GPU is needed."""
_EXAMPLES = """examples
  autopart plan hf:config.json --world 64 --cluster dgx-h100 --global-batch 512 --save plan.json
  autopart plan my_model.py:build --world 8 --tp 2 --recompute full
  autopart show plan.json
  autopart diff plan.json other.json
  autopart sweep hf:config.json --world 64,128,256 --cluster dgx-h100,dgx-a100 --tokens 1e12 --price 2.5"""


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_plan(commands)
    _add_sweep(commands)
    show = commands.add_parser("show", help="print a saved plan", description="Print a saved plan.")
    show.add_argument("plan", metavar="PLAN.json", help="what 'autopart plan --save' or plan.save() wrote")
    show.set_defaults(command=_show)
    diff = commands.add_parser(
        "diff", help="compare two saved plans", description="What differs between two saved plans, and what it costs."
    )
    diff.add_argument("first", metavar="A.json", help="a saved plan")
    diff.add_argument("second", metavar="B.json", help="another, compared with the first")
    diff.set_defaults(command=_diff)
    clusters = commands.add_parser(
        "clusters", help="list clusters and devices", description="List known clusters and devices."
    )
    clusters.set_defaults(command=_clusters)
    _add_calibrate(commands)
    return parser


def _add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="plan a model for a number of devices",
        description=_TARGET,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="which model; see above")
    parser.add_argument("--world", type=_positive, required=True, metavar="N", help="number of devices")
    parser.add_argument(
        "--cluster", metavar="NAME", help="a name that 'autopart clusters' lists, or the path of a .toml file"
    )
    parser.add_argument("--global-batch", type=_positive, metavar="B", help="samples a step")
    parser.add_argument("--sequence-length", type=_positive, metavar="S", help="tokens a sample, for hf: targets")
    parser.add_argument("--front-end", metavar="NAME", help="what captures the model: torch_export (default), fx_trace")
    parser.add_argument(
        "--stack", metavar="NAME", help="the software whose behaviour is predicted (default: autopart's own runtime)"
    )
    parser.add_argument("--precision", metavar="NAME", help="as-built (default), bf16-mixed, fp16-mixed or fp8-mixed")
    pins = parser.add_argument_group("pins", "each fixes one decision; all others are searched")
    pins.add_argument("--tp", type=_positive, metavar="N", help="tensor parallel degree")
    pins.add_argument("--pp", type=_positive, metavar="N", help="pipeline parallel degree")
    pins.add_argument("--dp", type=_positive, metavar="N", help="data parallel degree")
    pins.add_argument("--micro-batch", type=_positive, metavar="N", help="samples a micro-batch")
    pins.add_argument("--cp", type=_positive, metavar="N", help="context parallel degree")
    pins.add_argument("--recompute", metavar="WHAT", help="activation recomputation: none, selective, full, full:1/2")
    pins.add_argument("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage")
    pins.add_argument("--virtual-stages", type=_positive, metavar="N", help="stages each rank of the pipeline has")
    pins.add_argument("--schedule", metavar="NAME", help="pipeline schedule")
    pins.add_argument("--cuts", type=_names, metavar="A,B", help="names of the modules at which the later stages begin")
    pins.add_argument(
        "--sequence-parallel",
        action=argparse.BooleanOptionalAction,
        help="shard what goes from layer to layer along the sequence, or nothing along it",
    )
    parser.add_argument(
        "--keep-whole",
        type=_kept,
        metavar="A,B",
        help="names of modules that are not looked into, as in 'model.layers.*.mlp'; each is called as it is. 'auto' "
        "keeps those that cannot be captured",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--save", metavar="FILE", help="write the plan to this file")
    output.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(command=_plan)


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine, and write a device and a cluster file",
        description="Measure what each of N local processes gets of this machine while all of them compute: products "
        "by shape and dtype, memory, launches, attention, and collectives between them. It takes about a minute; what "
        "else runs on the machine is measured too.",
    )
    parser.add_argument("--world", type=_positive, required=True, metavar="N", help="number of processes")
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where device.toml and cluster.toml go")
    parser.add_argument("--name", default="calibrated", help="of the cluster, in plans (default: calibrated)")
    parser.set_defaults(command=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> str:
    from autopart import api

    return str(api.calibrate(arguments.world, arguments.output, arguments.name))


def _add_sweep(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sweep",
        help="plan a model for several clusters and numbers of devices",
        description=f"A full search for each; the model is captured once.\n\n{_TARGET}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="which model; see above")
    parser.add_argument("--world", type=_counts, required=True, metavar="N,M", help="numbers of devices")
    parser.add_argument("--cluster", type=_names, default=("dgx-h100",), metavar="A,B", help="names or paths")
    parser.add_argument("--global-batch", type=_positive, metavar="B", help="samples a step, for all")
    parser.add_argument("--sequence-length", type=_positive, metavar="S", help="tokens a sample, for hf: targets")
    parser.add_argument("--tokens", type=_amount, metavar="T", help="to train on, as 1e12: prints GPU-hours")
    parser.add_argument(
        "--price", type=_amount, metavar="P", help="of a GPU for an hour, with --tokens: prints the cost"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the sweep into a .png or .svg file")
    parser.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> str:
    from autopart import api
    from autopart.report.sweep import Budget, SweepPoint, sweep_table
    from autopart.report.sweep_plot import check_plot, sweep_plot

    if arguments.price is not None and arguments.tokens is None:
        raise PinError("--price needs --tokens: how many are to be trained on")
    if arguments.plot is not None:
        check_plot(arguments.plot)
    model, inputs = _load(arguments)
    prepared = api.prepare(model, inputs)
    points = []
    for cluster, world in [(x, y) for x in arguments.cluster for y in arguments.world]:
        try:
            plan = api.plan(prepared, world, cluster=cluster, global_batch=arguments.global_batch)
            points.append(SweepPoint(cluster, world, plan))
        except PlanningError as error:
            points.append(SweepPoint(cluster, world, None, str(error)))
    if arguments.plot is not None:
        sweep_plot(points, arguments.plot)
    return sweep_table(points, Budget(arguments.tokens, arguments.price))


def _load(arguments: argparse.Namespace) -> "tuple[nn.Module, object | None]":
    """The model that is asked for and its example batch."""
    from autopart.capture.target import load_target

    with _warnings_in_a_line():
        return load_target(arguments.target, arguments.sequence_length)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _plan(arguments: argparse.Namespace) -> str:
    from autopart import api
    from autopart.ir.plan import to_json

    model, inputs = _load(arguments)
    with _warnings_in_a_line():
        plan = api.plan(
            model,
            world=arguments.world,
            cluster=arguments.cluster,
            global_batch=arguments.global_batch,
            inputs=inputs,
            front_end=arguments.front_end,
            tp=arguments.tp,
            pp=arguments.pp,
            dp=arguments.dp,
            micro_batch=arguments.micro_batch,
            recompute=arguments.recompute,
            schedule=arguments.schedule,
            cuts=arguments.cuts,
            sequence_parallel=arguments.sequence_parallel,
            zero=arguments.zero,
            cp=arguments.cp,
            virtual_stages=arguments.virtual_stages,
            precision=arguments.precision,
            stack=arguments.stack,
            keep_whole=arguments.keep_whole,
        )
    if arguments.save is not None:
        plan.save(arguments.save)
        print(f"saved {arguments.save}", file=sys.stderr)
    return json.dumps(to_json(plan), indent=1) if arguments.json else str(plan)


def _show(arguments: argparse.Namespace) -> str:
    from autopart.report.load import load_plan

    return str(load_plan(arguments.plan))


def _diff(arguments: argparse.Namespace) -> str:
    from autopart.report.diff import diff
    from autopart.report.load import load_plan

    return diff(load_plan(arguments.first), load_plan(arguments.second))


def _clusters(_: argparse.Namespace) -> str:
    from autopart.report.clusters import clusters

    return clusters()


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of module names, as in model.layers.20,model.layers.40"
        )
    return names


def _kept(text: str) -> str | tuple[str, ...]:
    return text if text == "auto" else _names(text)


def _version() -> str:
    try:
        return version("autopart")
    except PackageNotFoundError:
        return "(not installed)"

"""autopart calibrate: measure this machine."""

import argparse

from autopart.arguments import positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine, and write a device and a cluster file",
        description="Measure what each of N local processes gets of this machine while all of them compute: products "
        "by shape and dtype, memory, launches, attention, and collectives between them. It takes about a minute; what "
        "else runs on the machine is measured too.",
    )
    parser.add_argument("--world", type=positive, required=True, metavar="N", help="number of processes")
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where device.toml and cluster.toml go")
    parser.add_argument("--name", default="calibrated", help="of the cluster, in plans (default: calibrated)")
    parser.set_defaults(command=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> str:
    from autopart import api

    return str(api.calibrate(arguments.world, arguments.output, arguments.name))

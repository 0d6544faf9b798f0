"""autopart clusters: list clusters and devices."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "clusters", help="list clusters and devices", description="List known clusters and devices."
    )
    parser.set_defaults(command=_clusters)


def _clusters(_: argparse.Namespace) -> str:
    from autopart.report.clusters import clusters

    return clusters()

"""autopart capture: save the graph of a model, to plan it again and again."""

import argparse

from autopart.arguments import TARGET, add_capture_options, load_ruled_model


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "capture",
        help="save the graph of a model, to plan it without torch",
        description=f"Capture a model and save its graph as JSON, for 'autopart plan graph:FILE'.\n\n{TARGET}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="which model; see above")
    parser.add_argument("--save", metavar="FILE", required=True, help="write the graph to this file")
    add_capture_options(parser)
    parser.set_defaults(command=_capture)


def _capture(arguments: argparse.Namespace) -> str:
    ruled = load_ruled_model(arguments)
    ruled.save(arguments.save)
    graph = ruled.folded
    return f"saved {arguments.save}: {len(graph.source.nodes)} nodes, {len(graph.graph.nodes)} of them distinct"

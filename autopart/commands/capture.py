"""autopart capture: save the graph of a model, to plan it again and again."""

import argparse

from autopart.arguments import TARGET, keep_whole, load_ruled_model, positive


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
    parser.add_argument("--sequence-length", type=positive, metavar="S", help="tokens a sample, for hf: targets")
    parser.add_argument("--front-end", metavar="NAME", help="what captures the model: torch_export (default), fx_trace")
    parser.add_argument("--keep-whole", type=keep_whole, metavar="A,B", help="modules that are not looked into")
    parser.set_defaults(command=_capture)


def _capture(arguments: argparse.Namespace) -> str:
    ruled = load_ruled_model(arguments)
    ruled.save(arguments.save)
    graph = ruled.folded
    return f"saved {arguments.save}: {len(graph.source.nodes)} nodes, {len(graph.graph.nodes)} of them distinct"

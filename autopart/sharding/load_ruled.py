"""Read a saved graph and find its rules. Nothing in the file is executed."""

import json
from dataclasses import replace
from pathlib import Path

from autopart.errors import GraphFileError
from autopart.ir.graph_json import graph_from_json
from autopart.ir.uncollected import uncollected
from autopart.sharding.find_rule import check_notation
from autopart.sharding.ruled import FORMAT, Ruled, find_rules

_AGAIN = "capture the model again: autopart capture TARGET --save FILE"


@uncollected()
def load_ruled(path: str | Path) -> Ruled:
    """The graph that `Ruled.save` wrote.

    Raises:
        GraphFileError: there is no such file, or it is no graph, or damaged, or of another version.
        RuleError: a rule of an operator in it that cannot be read.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphFileError(
            f"{path} cannot be read: {error.strerror or error}. Name a saved graph, or {_AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise GraphFileError(f"{path} is not the JSON of a graph: {error}; {_AGAIN}") from error
    if not isinstance(data, dict) or "autopart_graph" not in data:
        raise GraphFileError(f"{path} is not a graph of autopart: it has no 'autopart_graph' entry; {_AGAIN}")
    if data["autopart_graph"] != FORMAT:
        raise GraphFileError(
            f"{path} has graph format {data['autopart_graph']!r}, and this autopart reads format {FORMAT}; {_AGAIN}"
        )
    try:
        graph, given = graph_from_json(data["graph"]), dict(data["rules"])
        proven, kept = frozenset(data["proven"]), tuple(data["kept_unasked"])
        for op, source in given.items():
            check_notation(op, source)
        return replace(find_rules(graph, given, lambda doubtful: doubtful & proven), kept_unasked=kept)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise GraphFileError(f"{path} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error

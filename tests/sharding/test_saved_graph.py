"""A saved graph is the graph: the same fingerprint, rules and plan, and damage is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autopart.api import prepare
from autopart.errors import GraphFileError, UnsupportedError
from autopart.ir.graph_json import graph_from_json, graph_to_json
from autopart.planning import Pins, make_plan
from autopart.sharding.load_ruled import load_ruled
from autopart.sharding.rule import Rule
from tests.capture.models import tiny_llama, token_batch


def test_it_plans_as_the_model_does(tmp_path: Path) -> None:
    whole = prepare(tiny_llama(layers=3), token_batch())
    whole.save(tmp_path / "graph.json")
    read = load_ruled(tmp_path / "graph.json")
    assert read.folded == whole.folded and read.rules == whole.rules
    assert (read.batch, read.units, read.proven) == (whole.batch, whole.units, whole.proven)
    assert read.folded.source.fingerprint == whole.captured.graph.fingerprint
    pins = Pins(tp=2, micro_batch=1)
    assert make_plan(read, 4, "dgx-h100", 8, pins) == make_plan(whole, 4, "dgx-h100", 8, pins)
    data = graph_to_json(whole.folded.source)
    assert graph_from_json(json.loads(json.dumps(data))) == whole.folded.source
    with pytest.raises(UnsupportedError, match="is a function"):
        replace(whole, given={"mylib.op.default": lambda node, graph: Rule((), ())}).save(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the JSON of a graph"),
        ("[]", "is not a graph of autopart"),
        ('{"autopart_graph": 0}', "has graph format 0"),
        ('{"autopart_graph": 1, "graph": {"name": 1}}', "is damaged"),
    ],
)
def test_damage_is_told(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text(text)
    with pytest.raises(GraphFileError, match=message):
        load_ruled(file)
    with pytest.raises(GraphFileError, match="cannot be read"):
        load_ruled(tmp_path / "none.json")

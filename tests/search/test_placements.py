"""Pinned placements of parameters: what names stand for, what is kept in a whole search, and what cannot be."""

from functools import cache

import pytest

from autopart.errors import PinError
from autopart.ir.placement import Placement, Replicate, Shard
from autopart.search.placements import pinned_placements
from tests.capture.models import tiny_gpt, token_batch
from tests.search.problems import Problem, problem

UP, DOWN = "blocks.*.mlp.up.weight", "blocks.*.mlp.down.weight"


@cache
def gpt() -> Problem:
    return problem(tiny_gpt(hidden=1024, vocab=4096, context=128), token_batch(128))


def pins(**wanted: str) -> tuple[tuple[str, Placement], ...]:
    return pinned_placements(gpt().folded, {{"up": UP, "down": DOWN}.get(name, name): x for name, x in wanted.items()})


def held(found: tuple[tuple[str, Placement], ...]) -> dict[str, Placement]:
    return {gpt().folded.graph.targets[name]: placement for name, placement in found}


def test_a_name_stands_for_all_layers() -> None:
    assert held(pins(up="S(0)")) == {"blocks.0.mlp.up.weight": Shard(0)}
    by_layer = {f"blocks.{layer}.mlp.up.weight": "S(0,2:2)" for layer in range(4)}
    assert held(pinned_placements(gpt().folded, by_layer)) == {"blocks.0.mlp.up.weight": Shard(0, (1, 1))}
    both = pinned_placements(gpt().folded, {"blocks.*.mlp.*.weight": "R", "lm_head.weight": "R"})
    names = {"blocks.0.mlp.up.weight", "blocks.0.mlp.down.weight", "wte.weight"}  # the head's is tied to the embedding
    assert set(held(both)) == names


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"blocks.*.mlp.upper.weight": "S(0)"},
            r"no parameter 'blocks.\*.mlp.upper.weight', .* blocks.0.mlp.up.weight",
        ),
        ({"*": "R"}, "stands for one name between dots"),
        ({UP: "rows"}, "'rows' is not a placement, which is R"),
        ({UP: "P"}, "a parameter cannot be a partial sum"),
        ({UP: "S(0)", "blocks.*.*.up.weight": "R"}, r"blocks.0.mlp.up.weight is pinned twice, to S\(0\) by .* to R by"),
        (
            {"blocks.1.mlp.up.weight": "S(0)"},
            r"blocks.0.mlp.up.weight is left free and blocks.1.mlp.up.weight is S\(0\), but these 4 repeated layers .* "
            r"pin all of them alike, as 'blocks.\*.mlp.up.weight'",
        ),
    ],
)
def test_names_that_cannot_be_pinned(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(PinError, match=message):
        pinned_placements(gpt().folded, wanted)


@pytest.mark.parametrize("wanted", [{"up": "S(1)"}, {"up": "R", "down": "S(1)"}, {"up": "S(0)", "down": "S(0)"}])
def test_a_search_keeps_them_and_takes_the_best_of_what_is_left(wanted: dict[str, str]) -> None:
    """It finds what looking at every point finds, and a plan that is no better than without pins."""
    free = gpt().search(8, 64).run().best
    found = gpt().search(8, 64, placements=pins(**wanted)).run().best
    assert found.tp > 1, "one rank shards nothing"
    for name, placement in pins(**wanted):
        assert found.tensor.parameters[name].value == placement
    assert found.step_s >= free.step_s * (1 - 1e-9)
    search = gpt().search(8, 64, placements=pins(**wanted))
    search.prune = False
    assert search.run().best.step_s == pytest.approx(found.step_s, rel=1e-9)


def test_what_a_free_plan_chose_may_be_pinned() -> None:
    free = gpt().search(8, 64, tp=4).run().best
    every = tuple((name, layout.value) for name, layout in free.tensor.parameters.items())
    again = gpt().search(8, 64, tp=4, placements=every).run().best
    assert again.step_s == pytest.approx(free.step_s, rel=1e-9)
    assert any(isinstance(placement, Shard) for _, placement in every)
    assert any(isinstance(placement, Replicate) for _, placement in every)


def test_placements_that_are_not_possible() -> None:
    with pytest.raises(
        PinError,
        match=r"blocks.0.mlp.up.weight \(4096 x 1024\) cannot be S\(2\): with tp=1 it can be R; with tp=2, 4, 8 it can "
        r"be R, S\(0\), S\(1\)",
    ):
        gpt().search(8, 64, placements=pins(up="S(2)")).run()
    with pytest.raises(PinError, match=r"cannot be S\(0\): with tp=1 it can be R. Choose one of these, or another tp"):
        gpt().search(8, 64, tp=1, placements=pins(up="S(0)")).run()
    bias = pinned_placements(gpt().folded, {UP: "S(1)", "blocks.*.mlp.up.bias": "S(0)"})
    with pytest.raises(PinError, match=r"up.bias .* cannot be S\(0\) beside what is pinned of blocks.0.mlp.up.weight"):
        gpt().search(8, 64, placements=bias).run()

"""Layouts as text, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopart.ir.placement import Layout, Partial, Replicate, Shard, parse_layout

PLACEMENTS = st.one_of(
    st.just(Replicate()),
    st.just(Partial()),
    st.builds(Shard, st.integers(0, 9), st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple)),
    st.builds(Shard, st.integers(0, 9), by=st.sampled_from(["cumsum", "to_1", "_1"])),
)


@given(PLACEMENTS, PLACEMENTS)
def test_layouts_print_and_parse(value: Replicate | Partial | Shard, gradient: Replicate | Partial | Shard) -> None:
    layout = Layout(value, gradient)
    assert parse_layout(str(layout)) == layout


@given(st.text("RPS(),:|0123 -_\u0663", max_size=12))
def test_what_parses_prints_the_same_layout_or_is_refused(text: str) -> None:
    try:
        layout = parse_layout(text)
    except ValueError:
        return
    assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "R",
        "X|R",
        "R|",
        "R|P|R",
        "S(-1)|R",
        "S(0,0)|R",
        "S(0,)|R",
        "S(0,1:)|R",
        "S(1_0)|R",
        "S( 1)|R",
        "S(1@)|R",
        "S(@a)|R",
        "S(1@a b)|R",
    ],
)
def test_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (layout|placement)"):
        parse_layout(text)

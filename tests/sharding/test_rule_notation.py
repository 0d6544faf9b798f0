import pytest

from autopart.probe.traced import single
from autopart.sharding.find_rule import find_rule
from autopart.sharding.rule import parse
from tests.sharding.tensors import t


def test_letters_groups_and_what_is_added_once() -> None:
    rule = parse("b* i, o i, o? -> b* o", (3, 2, 1), (3,))
    assert rule is not None
    assert rule.inputs == (("b0", "b1", "i"), ("o", "i"), ("o",))
    assert rule.outputs == (("b0", "b1", "o"),)
    assert rule.once == {2}
    assert rule.letters == ("b0", "b1", "i", "o")


def test_an_operand_may_be_left_out() -> None:
    rule = parse("b* i, o i, o? -> b* o", (1, 2), (1,))
    assert rule is not None
    assert rule.inputs == (("i",), ("o", "i"))
    assert rule.once == frozenset()


def test_the_group_is_as_long_as_the_first_operand_with_one_needs() -> None:
    rule = parse("V h, b* -> b* h", (2, 3), (4,))
    assert rule is not None
    assert rule.inputs == (("V", "h"), ("b0", "b1", "b2"))
    assert rule.outputs == (("b0", "b1", "b2", "h"),)


def test_facts_and_scalars() -> None:
    rule = parse("n?, ?, m i -> m; mean; linear 0 2", (0, 2), (1,))
    assert rule is None  # of what may be left out, the last is taken to be
    whole = parse("n?, ?, m i -> m; mean; linear 0 2", (1, 0, 2), (1,))
    assert whole is not None
    assert whole.mean
    assert (whole.inputs, whole.once, whole.linear) == ((("n",), (), ("m", "i")), {0, 1}, {0, 2})
    plain = parse("m i -> m", (2,), (1,))
    assert plain is not None and not plain.mean and not plain.linear


def test_a_dim_written_1_has_that_size() -> None:
    given = {"aten.mul.Tensor": "a b, a 1 -> a b"}
    for columns, fits in ((1, True), (8, False)):
        traced = single("aten.mul.Tensor", t(4, 8), t(4, columns))
        assert (find_rule(traced.graph.nodes[0], traced.graph, given) is not None) is fits


@pytest.mark.parametrize("fact", ["", "linear", "mean 0", "lineal 1", "linear x"])
def test_a_fact_that_is_none(fact: str) -> None:
    with pytest.raises(ValueError):
        parse(f"a b -> a; {fact}", (2,), (1,))


def test_capitals_stay_whole_and_ones_are_no_axis() -> None:
    rule = parse("n C, 1 C -> n 1", (2, 2), (2,))
    assert rule is not None
    assert rule.whole == {"C"}
    assert rule.inputs == (("n", "C"), (None, "C"))
    assert rule.outputs == (("n", None),)


@pytest.mark.parametrize(
    ("notation", "inputs", "outputs"),
    [
        ("m k, k n -> m n", (2,), (2,)),  # an operand is missing that may not be
        ("m k, k n -> m n", (2, 2, 2), (2,)),
        ("m k, k n -> m n", (2, 3), (2,)),
        ("m k, k n -> m n", (2, 2), (2, 2)),
        ("m k, k n -> m n", (2, 2), (3,)),
        ("b* i, o i -> b* o", (0, 2), (0,)),
    ],
)
def test_tensors_that_do_not_fit_have_no_rule(notation: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    assert parse(notation, inputs, outputs) is None


@pytest.mark.parametrize("notation", ["m k, k n", "m k -> k -> m", ""])
def test_a_notation_has_one_arrow(notation: str) -> None:
    with pytest.raises(ValueError):
        parse(notation, (2, 2), (2,))

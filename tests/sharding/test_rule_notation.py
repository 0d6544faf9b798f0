import pytest

from autopart.sharding.rule import parse


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

"""Rule: which dims of an op's tensors are the same axis, and what sharding one of them does.

A rule is one string in the field's usual notation, `"b* i, o i, o? -> b* o"`: a letter a dim. A letter of the output
may be sharded; a letter missing from the output is contracted and leaves a partial sum. `b*` stands for any leading
dims, `1` for a dim of that size, a capital for an axis that must stay whole, and an operand marked `?` may
be left out and is only added, so that of a partial sum it is added once. Facts follow a semicolon: `; mean` says that
contractions are averages, `; linear 0 2` that the op is jointly linear in these operands, counted from 0.

Ops whose letters depend on shapes (views, concatenations) build the same object in a function.
"""

from dataclasses import dataclass

from autopart.ir.placement import Shard

Letters = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A way to shard that letters cannot say: for each tensor its shard, or None where it stays whole.

    `call` names the function of the runtime that takes the op's place on shards (a masked lookup, say).
    `reduces`: the function reduces inside, so outputs are whole and not partial.
    `units`: how many pieces the dim has that cannot be cut (the groups of a convolution); None where an element is one.
    """

    letter: str
    inputs: tuple[Shard | None, ...]
    outputs: tuple[Shard | None, ...]
    call: str | None = None
    reduces: bool = False
    units: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """The letters of one call, with the sizes seen.

    Attributes:
        inputs: letters a dim, for every tensor argument in order.
        outputs: letters a dim, for every output.
        whole: letters that must not be sharded.
        once: operands that are only added.
        linear: operands in which the op is jointly linear: partial in, partial out.
        mean: a contraction divides by the size it contracts.
        counts: with `mean`, the operand whose entries decide what is divided by (the targets that are not ignored).
        moves: further ways to shard.
        random: the op draws random numbers.
        names: what the field calls an axis, by letter ("vocab"), for the printout.
    """

    inputs: tuple[Letters, ...]
    outputs: tuple[Letters, ...]
    whole: frozenset[str] = frozenset()
    once: frozenset[int] = frozenset()
    linear: frozenset[int] = frozenset()
    mean: bool = False
    counts: int | None = None
    moves: tuple[Move, ...] = ()
    random: bool = False
    names: tuple[tuple[str, str], ...] = ()

    @property
    def letters(self) -> tuple[str, ...]:
        """All letters, in order of appearance."""
        found = dict.fromkeys(letter for dims in (*self.inputs, *self.outputs) for letter in dims if letter)
        return tuple(found)


def parse(notation: str, input_ranks: tuple[int, ...], output_ranks: tuple[int, ...]) -> Rule | None:
    """The rule that `notation` gives for tensors of these ranks, or None where they do not fit it.

    Args:
        notation: operands separated by commas, `->`, outputs separated by commas; then facts, each after a semicolon.
        input_ranks: the number of dims of each tensor argument, in order.
        output_ranks: the same for the outputs.

    Raises:
        ValueError: it is no notation.
    """
    letters_text, *facts = notation.split(";")
    left, right = letters_text.split("->")
    operands = [operand.split() for operand in left.split(",")]
    results = [result.split() for result in right.split(",")]
    linear = _linear(facts)
    once = frozenset(i for i, operand in enumerate(operands) if any(token.endswith("?") for token in operand))
    operands = [[token for token in operand if token != "?"] for operand in operands]  # `?` alone: a scalar
    missing = len(operands) - len(input_ranks)
    if missing < 0 or missing > len(once) or len(results) != len(output_ranks):
        return None
    dropped = sorted(once, reverse=True)[:missing]
    kept = [i for i in range(len(operands)) if i not in dropped]
    ranks = zip(kept, input_ranks, strict=True)
    group = next((_group_length(operands[i], rank) for i, rank in ranks if _grouped(operands[i])), 0)
    inputs = [_expand(operands[i], group) for i in kept]
    outputs = [_expand(result, group) for result in results]
    if [len(dims) for dims in inputs] != list(input_ranks) or [len(dims) for dims in outputs] != list(output_ranks):
        return None
    letters = {letter for dims in (*inputs, *outputs) for letter in dims if letter}
    return Rule(
        tuple(inputs),
        tuple(outputs),
        whole=frozenset(letter for letter in letters if letter[0].isupper()),
        once=frozenset(position for position, i in enumerate(kept) if i in once),
        linear=frozenset(position for position, i in enumerate(kept) if i in linear),
        mean=any(fact.split() == ["mean"] for fact in facts),
    )


def _linear(facts: list[str]) -> frozenset[int]:
    """The operands that the facts call linear.

    Raises:
        ValueError: a fact that is neither `mean` nor `linear` with numbers.
    """
    found: set[int] = set()
    for fact in facts:
        word, *numbers = fact.split() or [""]
        if (word, bool(numbers)) not in (("mean", False), ("linear", True)):
            raise ValueError(f"{fact.strip()!r} is not a fact: 'mean', or 'linear' with the numbers of operands")
        found.update(map(int, numbers))
    return frozenset(found)


def _grouped(tokens: list[str]) -> bool:
    return any(token.rstrip("?").endswith("*") for token in tokens)


def _group_length(tokens: list[str], rank: int) -> int:
    return rank - sum(not token.rstrip("?").endswith("*") for token in tokens)


def _expand(tokens: list[str], group: int) -> Letters:
    dims: list[str | None] = []
    for token in tokens:
        name = token.rstrip("?")
        if name.endswith("*"):
            dims += [f"{name[:-1]}{i}" for i in range(group)]
        else:
            dims.append(None if name == "1" else name)
    return tuple(dims)

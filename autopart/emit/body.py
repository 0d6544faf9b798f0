"""Body: write one function (a stage's or a block's `forward`) as statements that a person would write."""

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autopart.emit.spelling import shape_comment
from autopart.ir.size import Size

WIDEST = 110


@dataclass(frozen=True)
class Statement:
    """`targets = write(operands)`, before names are chosen.

    Attributes:
        targets: keys of what it defines; none for a statement kept for its own sake.
        operands: keys of what it uses, in order; a key that no statement defines is an expression as it stands.
        write: makes the expression from those of the operands.
        hint: what to call the result; `weak` where an operand that ends here may lend its name instead.
        shape: the rank's own shape of the first result, for the comment.
        inline: whether the expression may stand inside the next statement.
        scope: the module that it ran in.
        loop: a `for` whose first operands, one a target, are variables that each round sets anew.
    """

    targets: tuple[str, ...]
    operands: tuple[str, ...]
    write: Callable[[Sequence[str]], str]
    hint: str
    shape: tuple[Size, ...] | None = None
    inline: bool = True
    loop: bool = False
    weak: bool = True
    scope: str = ""


@dataclass(frozen=True)
class _Inlined:
    """An expression that waits to stand in the next statement, and what its result would have been called."""

    text: str
    hint: str
    shape: tuple[Size, ...] | None


@dataclass
class _Names:
    """Which variable holds which key; a variable is taken again once its value is dead."""

    last_use: Mapping[str, int]
    holder: dict[str, str] = field(default_factory=dict)
    name_of: dict[str, str] = field(default_factory=dict)
    scope_of: dict[str, str] = field(default_factory=dict)

    def assign(self, key: str, hint: str, at: int, scope: str = "") -> str:
        hint = identifier(hint)
        name, number = hint, 1
        while name in self.holder and self.last_use.get(self.holder[name], -1) > at:
            number += 1
            name = f"{hint}_{number}"
        self.holder[name] = key
        self.name_of[key] = name
        self.scope_of[key] = scope
        return name


def write_body(
    arguments: Mapping[str, str], statements: Sequence[Statement], results: Sequence[str]
) -> tuple[list[str], str]:
    """The lines of a function, and the expression that it returns.

    Args:
        arguments: the names of the function's arguments, by key.
        statements: in order.
        results: the keys that the function returns.
    """
    uses = _uses(statements, results)
    last_use = {key: places[-1] for key, places in uses.items()}
    last_use.update(dict.fromkeys(results, len(statements)))
    names = _Names(last_use)
    for key, name in arguments.items():
        names.holder[name], names.name_of[key] = key, name
    waiting: dict[str, _Inlined] = {}
    lines: list[str] = []
    for index, statement in enumerate(statements):
        inlined = {key: waiting.pop(key) for key in statement.operands if key in waiting}
        operands = [inlined[key].text if key in inlined else names.name_of.get(key, key) for key in statement.operands]
        if statement.loop:
            lines += _write_loop(statement, operands, names, last_use, index)
            continue
        expression = statement.write(operands)
        if inlined and len(expression) > WIDEST - 25:  # too long for one line: what was to stand inside gets its own
            for key, item in inlined.items():
                name = names.assign(key, item.hint, index - 1, statement.scope)
                lines.append(_line([name], item.text, item.shape))
            operands = [names.name_of.get(key, key) for key in statement.operands]
            expression = statement.write(operands)
            inlined = {}
        hints = _hints(statement, names, last_use, index, inlined)
        if _stands_in_next(statement, index, statements, uses, results, expression):
            waiting[statement.targets[0]] = _Inlined(expression, hints[0], statement.shape)
            continue
        targets = [
            names.assign(key, hint, index, statement.scope) for key, hint in zip(statement.targets, hints, strict=True)
        ]
        lines.append(_line(targets, expression, statement.shape))
    returned = ", ".join(waiting[key].text if key in waiting else names.name_of.get(key, key) for key in results)
    return lines, returned


def _line(targets: Sequence[str], expression: str, shape: tuple[Size, ...] | None) -> str:
    line = f"{', '.join(targets)} = {expression}" if targets else expression
    if shape is not None and len(line) < WIDEST - 20:
        line += f"  # {shape_comment(shape)}"
    return line


def _write_loop(
    statement: Statement, operands: list[str], names: _Names, last_use: Mapping[str, int], index: int
) -> list[str]:
    """The loop, its variables set before it where the operands are still needed or are no variables."""
    lines = []
    for position, target in enumerate(statement.targets):
        key = statement.operands[position]
        if names.name_of.get(key) == operands[position] and last_use.get(key) == index:
            names.holder[operands[position]], names.name_of[target] = target, operands[position]
        else:
            name = names.assign(target, "x", index)
            lines.append(f"{name} = {operands[position]}")
            operands[position] = name
    return [*lines, statement.write(operands)]


def identifier(text: str) -> str:
    """`text` as a Python name."""
    name = re.sub(r"\W+", "_", text).strip("_") or "x"
    name = f"_{name}" if name[0].isdigit() else name
    return (
        f"{name}_"
        if keyword.iskeyword(name) or name in ("self", "torch", "F", "nn", "b", "block", "checkpoint")
        else name
    )


def unique(hint: str, arguments: Mapping[str, str]) -> str:
    """`hint`, numbered where an argument has it."""
    name, number = hint, 1
    while name in arguments.values():
        number += 1
        name = f"{hint}_{number}"
    return name


def _uses(statements: Sequence[Statement], results: Sequence[str]) -> dict[str, list[int]]:
    uses: dict[str, list[int]] = {}
    for index, statement in enumerate(statements):
        for key in statement.operands:
            uses.setdefault(key, []).append(index)
    for key in results:
        uses.setdefault(key, []).append(len(statements))
    return uses


def _stands_in_next(
    statement: Statement,
    index: int,
    statements: Sequence[Statement],
    uses: Mapping[str, list[int]],
    results: Sequence[str],
    expression: str,
) -> bool:
    if not statement.inline or len(statement.targets) != 1 or len(expression) > WIDEST - 40:
        return False
    key = statement.targets[0]
    if uses.get(key) != [index + 1]:
        return False
    if index + 1 == len(statements):
        return list(results) == [key]
    following = statements[index + 1]
    if following.loop and key not in following.operands[: len(following.targets)]:
        return False  # every round would compute it again
    return following.operands.count(key) == 1


def _hints(
    statement: Statement,
    names: _Names,
    last_use: Mapping[str, int],
    index: int,
    inlined: Mapping[str, _Inlined],
) -> list[str]:
    """Names for the results: a strong hint, else that of the first operand (`x = x + y`), else where it ran."""
    hint = statement.hint
    if statement.weak:
        for key in statement.operands:
            if key in inlined:
                hint = inlined[key].hint
                break
            if key in names.name_of:
                ends = last_use.get(key) == index
                if ends or not hint or names.scope_of.get(key) == statement.scope:
                    hint = names.name_of[key]
                break
    hint = re.sub(r"_\d+$", "", hint) or "x"
    if len(statement.targets) > 1:
        return [f"{hint}_{number}" for number in range(len(statement.targets))]
    return [hint for _ in statement.targets]

"""Discovery: the rule that was found for an op, how each letter was shown, and the file to add."""

from dataclasses import dataclass
from textwrap import fill

WIDEST = 110


@dataclass(frozen=True, slots=True)
class Axis:
    """A letter of the notation and the dims that it stands for.

    Attributes:
        letter: as the notation has it; `b*` is a group of leading dims.
        how: "kept" (the outputs are pieces), "contracted" (the outputs are partial sums), or "averaged" (the same, to
            be divided by the number of ranks).
        dims: "x dim 1", "output dim 0".
    """

    letter: str
    how: str
    dims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WholeDim:
    """A dim that must not be sharded: `dim` is "x dim 1", `why` what the probe saw."""

    dim: str
    why: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """A sharding rule found by running. It prints as a summary and the file to add.

    Attributes:
        op: the overload ("mylib.my_op.default").
        notation: the rule, as `rules={op: notation}` takes it.
        letters: what may be sharded.
        whole: what must stay whole.
        linear: the arguments in which the op is jointly linear: partial sums pass through it.
        once: the arguments that are only added; those may also be left out.
        notes: what the reader should know of the proof.
    """

    op: str
    notation: str
    letters: tuple[Axis, ...]
    whole: tuple[WholeDim, ...]
    linear: tuple[str, ...]
    once: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        """The complete text of a rule file, as `autopart/sharding/rules/` holds them."""
        lines = [f"The sharding rule of {self.op}, found by running it with autopart.rules.discover.", ""]
        lines += [f"{axis.letter}: {axis.how}; {', '.join(axis.dims)}." for axis in self.letters]
        lines += [f"Whole: {', '.join(item.dim for item in self.whole)}."] if self.whole else []
        text = "\n".join(fill(line, WIDEST) for line in lines)
        return f'"""{text.rstrip()}\n"""\n\nRULES = {{"{self.op}": "{self.notation}"}}\n'

    def __str__(self) -> str:
        lines = [f'{self.op}: "{self.notation}"']
        lines += [f"  {axis.letter:2} {axis.how:10} {', '.join(axis.dims)}" for axis in self.letters]
        lines += [f"  whole         {item.dim}: {item.why}" for item in self.whole]
        lines += (
            [f"  linear        in {', '.join(self.linear)} jointly: partial sums pass through"] if self.linear else []
        )
        lines += [f"  added once    {', '.join(self.once)}"] if self.once else []
        lines += [f"  note          {note}" for note in self.notes]
        if not self.letters:
            lines.append("  nothing may be sharded: without a rule the op is replicated, which is always right")
        advice = f'pass rules={{"{self.op}": "{self.notation}"}} to plan and parallelize, or add the file:'
        return "\n".join([*lines, "", advice, "", self.source])

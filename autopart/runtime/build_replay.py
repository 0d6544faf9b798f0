"""Replay: run a tape for a few of its tensors, with the random numbers that the whole of it would have had.

Only what these tensors need is computed, and a tensor is freed after its last use. Random numbers that nobody needs
are drawn nevertheless, as all that come after depend on how many there were.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from autopart.errors import CheckpointError
from autopart.runtime.build_tape import Draw, Tape, View


def replay(
    tape: Tape, wanted: Sequence[View], states: dict[int, torch.Tensor] | None = None
) -> Iterator[tuple[View, torch.Tensor]]:
    """The values that `wanted` have at the end of the tape, each as soon as it has them; none is kept here.

    Generators are left as they are. Where `states` is given, theirs after each operation are added to it: a tape that
    has them need not be drawn again to get there.
    """
    by_storage = defaultdict[int, list[View]](list)
    for view in wanted:
        by_storage[view.storage].append(view)
    schedule = _schedule(tape, by_storage)
    run = _Run(tape, schedule, states)
    untouched = by_storage.keys() - schedule.final.keys()
    for storage in untouched:
        yield from ((view, run.tensor(view)) for view in by_storage[storage])
    run.free(untouched)
    for index in sorted(schedule.needed):
        run.do(index)
        for storage in schedule.ends.get(index, ()):
            if schedule.final[storage] == index:
                yield from ((view, run.tensor(view)) for view in by_storage.get(storage, ()))
        run.free(schedule.ends.get(index, ()))


def draws(tape: Tape, wanted: Sequence[View]) -> bool:
    """Whether the values of any of `wanted` depend on random numbers."""
    return _backwards(tape, {view.storage for view in wanted}, -1)[1] >= 0


class _Run:
    """The storages that hold values, and how far the generators are."""

    def __init__(self, tape: Tape, schedule: "_Schedule", states: dict[int, torch.Tensor] | None) -> None:
        self._tape, self._schedule, self._kept = tape, schedule, states
        self._held: dict[int, torch.UntypedStorage] = {}
        self._states: dict[int, torch.Tensor] = {}
        draws = (tape.operations[index].draw for index in schedule.needed)
        self._followed = Counter(draw.begins for draw in draws if draw is not None and isinstance(draw.begins, int))

    def tensor(self, view: View) -> torch.Tensor:
        """The window on a storage."""
        storage = self._storage(view)
        return torch.empty(0, dtype=view.dtype).set_(storage, view.offset, view.shape, view.strides)

    def free(self, storages: Iterable[int]) -> None:
        """Forget storages."""
        for storage in storages:
            self._held.pop(storage, None)

    @torch.no_grad()
    def do(self, index: int) -> None:
        """Run an operation."""
        op = self._tape.operations[index]
        fills = op.fills if index in self._schedule.discarded else None

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, View):
                return leaf
            if fills is not None:  # where it lies does not matter, how does: random kernels are others where contiguous
                return torch.empty_strided(leaf.shape, leaf.strides, dtype=leaf.dtype)
            return self.tensor(leaf)

        args, kwargs = pytree.tree_map(value, (op.args, dict(op.kwargs)))
        with self._drawing(index, op.draw):
            outputs = op.function(*args, **kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
        known = {storage._cdata for storage in self._held.values()}
        for place, view in op.made.items():
            made = leaves[place]
            if made.stride() != view.strides or made.storage_offset() or made.untyped_storage()._cdata in known:
                made = torch.empty_strided(view.shape, view.strides, dtype=view.dtype).copy_(made)
            self._held[view.storage] = made.untyped_storage()

    def _storage(self, view: View) -> torch.UntypedStorage:
        """What holds a storage; it is made when it is first filled, and so is there no longer than its values."""
        if view.storage in self._tape.given:
            return self._tape.given[view.storage].untyped_storage()
        if view.storage not in self._held:
            size = self._tape.storage_bytes[view.storage]
            self._held[view.storage] = torch.empty(size, dtype=torch.uint8).untyped_storage()
        return self._held[view.storage]

    @contextmanager
    def _drawing(self, index: int, draw: Draw | None) -> Iterator[None]:
        """The generator stands where it would stand, and afterwards as it was."""
        if draw is None:
            yield
            return
        before = draw.generator.get_state()
        try:
            draw.generator.set_state(self._state(draw.begins) if isinstance(draw.begins, int) else draw.begins)
            yield
            if index in self._followed:
                self._states[index] = draw.generator.get_state()
            if self._kept is not None:
                self._kept[index] = draw.generator.get_state()
        finally:
            draw.generator.set_state(before)

    def _state(self, operation: int) -> torch.Tensor:
        """Of the generator after an operation; it is forgotten when no other asks for it."""
        self._followed[operation] -= 1
        if operation in self._tape.states:
            return self._tape.states[operation]
        return self._states[operation] if self._followed[operation] else self._states.pop(operation)


@dataclass
class _Schedule:
    """Which operations run.

    Attributes:
        needed: their numbers.
        discarded: those of them whose numbers nobody needs.
        ends: after which of them storages are not needed any more, or not until they are filled anew.
        final: the last of them that has to do with a storage.
    """

    needed: set[int] = field(default_factory=set)
    discarded: set[int] = field(default_factory=set)
    ends: dict[int, list[int]] = field(default_factory=dict)
    final: dict[int, int] = field(default_factory=dict)


def _schedule(tape: Tape, wanted: Collection[int]) -> _Schedule:
    """Liveness, backwards: an operation runs if somebody needs what it makes, or numbers drawn after it."""
    schedule, last_draw = _backwards(tape, wanted, -1)
    return schedule if last_draw < 0 else _backwards(tape, wanted, last_draw)[0]


def _backwards(tape: Tape, wanted: Collection[int], last_draw: int) -> tuple[_Schedule, int]:
    """What runs if, of numbers that nobody needs, those up to `last_draw` are drawn; and which draw is needed last."""
    found, live, open_, last = _Schedule(), set(wanted) - tape.given.keys(), set[int](), -1
    undrawn = range(next(reversed(tape.states), -1) + 1, last_draw + 1)
    for index in reversed(range(len(tape.operations))):
        if not live and (not undrawn or index < undrawn.start):
            break
        op = tape.operations[index]
        useful = not op.writes.isdisjoint(live)
        if not useful and (op.draw is None or index not in undrawn):
            continue
        found.needed.add(index)
        if useful and op.draw is not None:
            last = max(last, index)
        if not useful and op.fills is not None:
            found.discarded.add(index)
            continue
        ending = [storage for storage in op.reads | op.writes if storage not in open_]
        found.ends[index] = ending
        for storage in ending:
            found.final.setdefault(storage, index)
        open_.update(ending)
        open_ -= op.replaces
        live -= op.replaces
        live |= op.reads - tape.given.keys()
    if live:
        raise CheckpointError(
            f"build gives {len(live)} tensors their values by other means than the ops of torch, such as storages: what"
            " these are is not known; let it use ops"
        )
    return found, last

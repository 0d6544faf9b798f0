"""Same every time: whether a model computes the same again after what its forward pass has changed.

A graph is what forward did once. So where that changed an attribute, the model is captured again with what is then in
it. If the graph is another one, or reads a tensor that was put there, the model is refused, unless that is a cache: a
tensor that is made of constants alone when it is first asked for, and then stays.
"""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import Any

import torch
from torch import nn

from autopart.capture.captured import Captured
from autopart.capture.module_state import Changes, Kept, ModuleState, Place, holding
from autopart.errors import AutopartError, CaptureError

Capture = Callable[[], Captured]


def check_same_every_time(
    model: nn.Module, state: ModuleState, captured: Captured, capture: Capture, with_kept: Capture | None = None
) -> None:
    """Capture again with what forward has changed, if it has.

    Args:
        model: the model.
        state: what the capture that gave `captured` has changed.
        captured: the graph that is to hold for every time.
        capture: captures once more.
        with_kept: the same, with the tensors that forward puts into attributes as the last outputs. Left out, no cache
            is known as one.

    Raises:
        CaptureError: the next time something else is computed.
    """
    changes = state.changes
    if not changes:
        return
    values = {place: _stand_in(new) for place, (_, new) in changes.items()}
    given = {id(tensor) for kept in values.values() for tensor in kept.tensors}
    again = _captured_with(model, values, capture)
    if again is not None and _equal(captured, again) and given.isdisjoint(map(id, again.constants.values())):
        return
    if not (given and again is not None and _settled(model, state, values, again, capture)):
        raise CaptureError(_text(type(model).__name__, changes))
    before = {id(tensor) for old, _ in changes.values() if old is not None for tensor in old.tensors}
    if with_kept is None or not _made_of_constants(with_kept(), len(captured.graph.outputs), before):
        raise CaptureError(_text(type(model).__name__, changes))


def _captured_with(model: nn.Module, values: Mapping[Place, Kept], capture: Capture) -> Captured | None:
    try:
        with holding(model, values):
            return capture()
    except (AutopartError, RuntimeError, ValueError, TypeError):
        return None  # what does not run at all is not the same


def _settled(
    model: nn.Module,
    state: ModuleState,
    values: Mapping[Place, Kept],
    again: Captured,
    capture: Capture,
) -> bool:
    """Whether the second time, of which `state` tells, is like all later ones."""
    if not state.changes:
        return True
    later = {place: _stand_in(new) for place, (_, new) in state.changes.items()}
    third = _captured_with(model, {**values, **later}, capture)
    return third is not None and _equal(again, third)


def _equal(one: Captured, other: Captured) -> bool:
    return one.graph.fingerprint == other.graph.fingerprint


def _stand_in(kept: Kept) -> Kept:
    """A like thing whose tensors are of this process, and not of a trace that is over."""

    def own(item: Any) -> Any:
        if isinstance(item, torch.fx.Proxy):
            return torch.zeros(1)
        if not isinstance(item, torch.Tensor):
            return item
        item = getattr(item, "like", item)  # inside a layer that is not traced
        return torch.zeros([int(size) for size in item.shape], dtype=item.dtype, device=item.device)

    if kept.inside is None:
        return Kept(own(kept.value))
    if isinstance(kept.inside, dict):
        inside: Any = copy(kept.inside)
        inside.update((key, own(item)) for key, item in kept.inside.items())
        return Kept(copy(inside), inside)
    inside = [own(item) for item in kept.inside]
    return Kept(kept.value if isinstance(kept.value, tuple) else type(kept.value)(inside), inside)


def _made_of_constants(captured: Captured, returned: int, changed: Collection[int]) -> bool:
    """Whether no input, no weight and nothing that changes goes into the outputs after the first `returned`."""
    graph = captured.graph
    known = {item.value.name for item in graph.constants if id(captured.constants[item.target]) not in changed}
    for node in graph.nodes:
        if all(name in known for name in node.inputs) and node.output.name in graph.recomputable:
            known.update(value.name for value in node.outputs)
    return all(name in known for name in graph.outputs[returned:])


def _text(model: str, changes: Changes) -> str:
    (path, name), (old, new) = next(iter(changes.items()))
    place = ".".join(filter(None, (path, name)))
    if new.tensors or (old is not None and old.tensors):
        return (
            f"forward of {model} puts another tensor into {place}, and computes with it the next time; it is neither a "
            "parameter nor a buffer, so that a graph has the values of one time. Register it as a buffer, which "
            f"forward may change: self.register_buffer({name!r}, ...)"
        )
    return (
        f"forward changes {place} of {model} from {_shown(old)} to {_shown(new)}, and computes something else with it "
        "the next time; a graph has the numbers of one time. "
        f"Keep it in a buffer: self.register_buffer({name!r}, torch.tensor(...)), which forward may change"
    )


def _shown(kept: Kept | None) -> str:
    text = "nothing" if kept is None else repr(kept.value if kept.inside is None else kept.inside)
    return text if len(text) < 60 else f"{text[:56]} ..."

"""keep_as_needed: capture a model, and keep whole what turns out to stand in the way.

A capture that fails names places, and the modules that they lie in. These are kept whole, and the next try begins.
A place inside a module that is kept already says that keeping it does not do (it cannot be run by itself, or its parts
are called from outside): then the module around it is kept in its stead. So each try keeps more than the last one.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import nn

from autopart.capture.found_places import holds, matches, pattern, smallest
from autopart.errors import CaptureError, InputsError

AUTO = "auto"
MOST_TRIES = 12  # of as many exports; a model of modules six deep needs half of them
Result = TypeVar("Result")


def keep_as_needed(model: nn.Module, capture: Callable[[Sequence[str]], Result]) -> tuple[Result, tuple[str, ...]]:
    """What `capture` returns for the names of the modules to keep whole that it needs, and these names.

    Layers are taken alike: where one has to be kept, so are those that look the same and differ in their number.

    Raises:
        CaptureError: what stands in the way lies in no module that can be kept whole, or in too many.
    """
    kept: tuple[str, ...] = ()
    for _ in range(MOST_TRIES):
        try:
            found = capture(kept)
        except InputsError:
            raise
        except CaptureError as error:
            last = error
            wider = _wider(model, kept, error)
            if not wider:
                break
            kept = wider
        else:
            names = tuple(_written(model, kept))
            if names:
                warnings.warn(
                    f"{type(model).__name__}: these modules cannot be captured and are kept whole, each computed by "
                    f"every tensor-parallel rank: {', '.join(names)}",
                    stacklevel=2,
                )
            return found, names
    raise CaptureError(
        f"keep_whole={AUTO!r} finds no modules to keep whole"
        + (f" beyond {', '.join(kept)}" if kept else "")
        + f": {last}",
        last.places,
    ) from last


def _wider(model: nn.Module, kept: Sequence[str], error: CaptureError) -> tuple[str, ...]:
    """The modules to keep after `error`; none if it lies in the model's own code, which cannot be kept whole."""
    wanted = list(kept)
    for path in dict.fromkeys(module for place in error.places for module in place.modules):
        inside = next((name for name in kept if holds(name, path)), None)
        chosen = path if inside is None else _parent(model, inside)
        if not chosen:
            return ()
        wanted += _alike(model, chosen)
    found = tuple(smallest(wanted))
    return found if set(found) != set(kept) else ()


def _parent(model: nn.Module, path: str) -> str:
    """The smallest module around the one at `path` that is called, as lists of modules are not."""
    while path:
        path = path.rpartition(".")[0]
        if type(model.get_submodule(path)).forward is not nn.Module.forward:
            break
    return path


def _alike(model: nn.Module, path: str) -> list[str]:
    """`path`, and those that differ from it in numbers alone and look the same."""
    shown, numbered = repr(model.get_submodule(path)), _numbered(path)
    return [name for name, module in model.named_modules() if _numbered(name) == numbered and repr(module) == shown]


def _written(model: nn.Module, kept: Sequence[str]) -> Iterator[str]:
    """The names of `kept` modules as a user would write them: one for all layers of a kind."""
    for numbered in dict.fromkeys(map(_numbered, kept)):
        own = [name for name in kept if _numbered(name) == numbered]
        everywhere = [name for name, _ in model.named_modules() if _numbered(name) == numbered]
        together = pattern(own)
        if len(own) == len([name for name in everywhere if matches(together, name)]):
            yield together
        else:
            yield from own


def _numbered(path: str) -> str:
    return ".".join("*" if name.isdigit() else name for name in path.split("."))

"""Survey: after an export has failed, run the model once more and note everything that stands in the way.

The model runs as it does for an export, with fake tensors and a symbolic batch. But where a value of a tensor would
decide what happens, the place is noted, some plausible value is taken, and the run goes on to the next place.
"""

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import sympy
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode, resolve_name

from autopart.capture.call_log import replace_tensors
from autopart.capture.found_places import FoundPlaces
from autopart.capture.user_lines import TORCH_FOLDER, fixed_sizes, running_frame, running_in_torch, user_frame

MOST_READINGS = 1000  # a loop that waits for a value which the survey never gives is left after so many
BRANCH = "data-dependent branch: the value of a tensor decides what runs"
WHERE = "use torch.where, or move the decision out of forward"
NUMBER = "a number read from a tensor"
TENSOR = "keep the value in a tensor: drop .item() or int(), choose with torch.where"
# Functions that give Python values: what to call them, what to write instead, and the value to go on with.
READERS: dict[str, tuple[str, str, Any]] = {
    "__bool__": (BRANCH, WHERE, None),
    "is_nonzero": (BRANCH, WHERE, None),
    "equal": (f"torch.equal: {BRANCH}", WHERE, None),
    "allclose": (f"torch.allclose: {BRANCH}", WHERE, None),
    "__contains__": (f"`in` on a tensor: {BRANCH}", WHERE, None),
    "item": (f".item(): {NUMBER}", TENSOR, 1),
    "__int__": (f"int(): {NUMBER}", TENSOR, 1),
    "__index__": (f"a tensor as an index or a size: {NUMBER}", TENSOR, 1),
    "__float__": (f"float(): {NUMBER}", TENSOR, 1.0),
    "__complex__": (f"complex(): {NUMBER}", TENSOR, complex(1.0)),
    "__format__": (f"a tensor in a text: {NUMBER}", "print outside forward", "1"),
    "tolist": (".tolist(): numbers read from a tensor", "keep the values in a tensor, and index with tensors", None),
    "numpy": (".numpy(): leaves torch, which sees no further", "write the computation in torch", None),
    "__array__": ("numpy on a tensor: leaves torch, which sees no further", "write the computation in torch", None),
}
DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
SHAPE_ADVICE = "keep the shape: mask with torch.where or a product, or take a fixed number with torch.topk"
INDEX_ADVICE = "keep it in a tensor: x.index_select(0, index.reshape(1)) in place of x[index]"
ATTRIBUTE_ADVICE = "return the tensor instead, or register it as a buffer"
WEIGHT_ADVICE = "change weights after the optimizer's step, outside forward"
BATCH_ADVICE = (
    "take sizes from the input (x.shape[0]; torch.linspace and range need plain numbers, torch.arange does not); no "
    "constants of its size in forward"
)
ERROR_ADVICE = (
    "see whether the model runs on this batch at all; if so, the graph must be the same for every batch, of operators "
    "that torch.export knows"
)


class SurveyEndedError(Exception):
    """The survey is complete; there is no use for the export that it ran in."""


class Survey(TorchFunctionMode):
    """A watch over one run, which notes into `found`.

    Args:
        root: the model.
        found: takes the places.
        first: how to answer the first question on a line that asks whether a tensor is true; the next answer on that
            line is the other one, so that loops end.
    """

    def __init__(self, root: nn.Module, found: FoundPlaces, first: bool) -> None:
        super().__init__()
        self._found, self._first = found, first
        self._names = {id(vars(module)): name for name, module in root.named_modules()}
        self._path = [""]
        self._asked: Counter[str] = Counter()
        self._guessed_sizes = False
        self.branched = False  # whether a tensor was asked if it is true, so that the other answer may lead elsewhere
        self.ended = False  # whether the model ran to its end
        self._data: dict[int, torch.Tensor] = {}  # what `.data` gave of weights, which have to live on

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watch all that the model does."""
        call, assign = nn.Module.__call__, nn.Module.__setattr__

        def watched_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._path.append(self._names.get(id(vars(module)), self._path[-1]))
            result = call(module, *args, **kwargs)
            self._path.pop()  # not where it fails: the error is noted further out
            return result

        def watched_assign(module: nn.Module, name: str, value: Any) -> None:
            known = name in module._parameters or name in module._buffers
            by_torch = sys._getframe(1).f_code.co_filename.startswith(TORCH_FOLDER)  # a tracer keeps tensors too
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) and not known and not by_torch:
                self._note(f"side effect: the tensor is kept as the attribute {name!r} of a module", ATTRIBUTE_ADVICE)
            assign(module, name, value)

        nn.Module.__call__, nn.Module.__setattr__ = watched_call, watched_assign  # type: ignore[method-assign,assignment]
        try:
            with fixed_sizes(self._fixed), self:
                yield
        except Exception as error:
            self._failed(error)
            raise
        finally:
            nn.Module.__call__, nn.Module.__setattr__ = call, assign  # type: ignore[method-assign]

    def check(self, result: object) -> None:
        """End the export."""
        self.ended = True
        raise SurveyEndedError

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call it, and if its result depends on values that are not known, note that and give another."""
        name = getattr(func, "__name__", str(func))
        if name.endswith("_") and not name.endswith("__") and args and id(args[0]) in self._data:
            self._note(f"{name} on the .data of a weight: forward changes it in place", WEIGHT_ADVICE)
        try:
            result = func(*args, **(kwargs or {}))
        except Exception:
            if name not in READERS:
                raise
            return self._read(name, args[0])
        if name in READERS and _unknown(result):
            return self._read(name, args[0])
        if func == DATA and isinstance(args[0], nn.Parameter):
            self._data[id(result)] = result
        return self._known(func, result)

    def _read(self, name: str, tensor: torch.Tensor) -> Any:
        if name == "item" and "tolist" in running_in_torch():
            name = "tolist"  # which reads item by item
        construct, advice, value = READERS[name]
        location = self._note(construct, advice)
        self._asked[location] += 1
        if sum(self._asked.values()) > MOST_READINGS:
            raise SurveyEndedError
        if name in ("numpy", "__array__") or (name == "tolist" and tensor.ndim):
            with torch._C.DisableTorchFunction():
                shape = [_plausible(size) for size in tensor.shape]
                return _ones(tensor.dtype, shape, listed=name == "tolist")
        if value is None and name != "tolist":
            self.branched = True
            return self._first == (self._asked[location] % 2 == 1)
        return _one(tensor.dtype) if name in ("item", "tolist") else value

    def _known(self, func: Callable[..., Any], result: Any) -> Any:
        """`result`, with numbers and sizes that are not known replaced by some that are."""

        def known(tensor: torch.Tensor) -> torch.Tensor:
            if not free_unbacked_symbols(tensor):
                return tensor
            name = (resolve_name(func) or getattr(func, "__name__", str(func))).split(".")[-1]
            if any(map(_unknown, tensor.shape)):
                shown = "indexing with a mask" if name == "__getitem__" else name
                self._note(f"{shown}: the size of the result depends on values", SHAPE_ADVICE)
                self._guessed_sizes = True
            else:
                self._note(f"a tensor as an index: {NUMBER}", INDEX_ADVICE)
            shape = [_plausible(size) for size in tensor.shape]
            return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)

        with torch._C.DisableTorchFunction():
            if _unknown(result):
                self._note(f"{getattr(func, '__name__', func)}: {NUMBER}", TENSOR)
                return 1
            return replace_tensors(result, known)

    def _note(self, construct: str, advice: str) -> str:
        return self._found.add(running_frame(), self._path[-1], construct, advice)

    def _fixed(self, size: int) -> None:
        if not self._guessed_sizes:
            self._note(
                f"the batch size becomes the fixed number {size}: the graph would hold for it alone", BATCH_ADVICE
            )

    def _failed(self, error: Exception) -> None:
        if isinstance(error, SurveyEndedError):
            return
        frame = user_frame(traceback.extract_tb(error.__traceback__))
        if self._found.count:  # maybe only because of a value that was made up
            self._found.stopped = self._found.stopped or frame
            return
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it gives no reason"
        self._found.add(frame, self._path[-1], f"unsupported call: {type(error).__name__}: {reason}", ERROR_ADVICE)


def _unknown(result: Any) -> bool:
    return isinstance(result, torch.SymInt | torch.SymFloat | torch.SymBool) and bool(free_unbacked_symbols(result))


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _plausible(size: int | torch.SymInt) -> int | torch.SymInt:
    """The size, with 1 for every symbol that stands for a value of a tensor."""
    if isinstance(size, int) or not (symbols := free_unbacked_symbols(size)):
        return size
    guess = size.node.expr.xreplace(dict.fromkeys(symbols, sympy.Integer(1)))
    return int(guess) if guess.is_Integer else 1


def _ones(dtype: torch.dtype, shape: list[Any], listed: bool) -> Any:
    """An array, or nested lists, of ones."""
    name = str(dtype).removeprefix("torch.")
    sizes = [size if isinstance(size, int) else _hint(size) for size in shape]
    ones = np.ones(sizes, dtype="float32" if name == "bfloat16" else name)  # numpy lacks it
    return ones.tolist() if listed else ones


def _hint(size: torch.SymInt) -> int:
    """The number that a symbolic size has in this run, without fixing it."""
    hint = size.node.hint
    return 1 if hint is None else int(hint)

"""Gradient hooks: functions of the user's that see or change a gradient on its way. A captured graph has none.

Export would leave them out without a word, and the model would train with other gradients. So they are refused.
"""

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autopart.capture.found_places import holds
from autopart.capture.user_lines import running_module, user_frame
from autopart.errors import CaptureError, Place

ADVICE = (
    "a graph has no hooks, and gradients would be others. Change gradients after train_step, or scale values in "
    "forward (x * 2 - x.detach() for a gradient of 2)"
)


def check_hooks(model: nn.Module, kept: Iterable[str]) -> None:
    """Whether modules and parameters have no gradient hooks; modules in `kept` are called as they are, with theirs.

    Raises:
        CaptureError: some have; all are listed.
    """
    kept = tuple(kept)
    places = []
    for name, module in model.named_modules():
        if not any(holds(pattern, name) for pattern in kept) and (module._backward_hooks or module._backward_pre_hooks):
            places.append(
                Place("", "", name, f"a backward hook of module {name or type(module).__name__}", ADVICE, (name,))
            )
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            places.append(Place("", "", "", f"a gradient hook of parameter {name}", ADVICE))
    if places:
        found = ", ".join(place.construct for place in places)
        raise CaptureError(f"{type(model).__name__} has {found}: {ADVICE}", tuple(places))


@contextmanager
def refusing_hooks(model: nn.Module) -> Iterator[None]:
    """While it lasts, `register_hook` of a tensor that is traced is an error.

    Raises:
        CaptureError: within the block, with the line.
    """
    original: Callable[..., Any] = torch.Tensor.register_hook
    paths = {id(vars(module)): name for name, module in model.named_modules()}

    def register_hook(tensor: torch.Tensor, hook: Callable[..., Any]) -> Any:
        if type(tensor) in (torch.Tensor, nn.Parameter):  # real ones, as in a trial run of a module kept whole
            return original(tensor, hook)
        frame = user_frame(traceback.extract_stack())
        location, line = (f"{frame.filename}:{frame.lineno}", frame.line or "") if frame else ("", "")
        module = running_module(paths)
        place = Place(location, line, module, "a gradient hook of a tensor", ADVICE, (module,))
        where = f' in module {module}: keep_whole=["{module}"] keeps it' if module else ""
        raise CaptureError(f'{location}: "{line}" registers a gradient hook: {ADVICE}{where}', (place,))

    torch.Tensor.register_hook = register_hook  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.register_hook = original  # type: ignore[method-assign]

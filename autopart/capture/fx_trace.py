"""Capture a model as a Graph with `torch.fx`: its Python runs once, on proxies, and what it called is then exported.

    model ──symbolic trace──▶ calls of torch functions and layers ──export on fake tensors──▶ ATen ops ──▶ Graph

The calls hold nothing of the model's Python, so that an `assert` on the values of a tensor stands in nobody's way.
Proxies have no shapes and no types: code that decides by them is refused.
"""

import dis
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from traceback import FrameSummary
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.traceback import preserve_node_meta
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from autopart.capture.captured import Captured
from autopart.capture.cast_regions import CastRegions
from autopart.capture.example import Example, example_of
from autopart.capture.example_inputs import Batch
from autopart.capture.found_places import FoundPlaces
from autopart.capture.gradient_hooks import check_hooks
from autopart.capture.keep_whole import KeepWhole
from autopart.capture.module_state import ModuleState
from autopart.capture.node_source import mark_full
from autopart.capture.own_gradients import Applied, calling_functions
from autopart.capture.same_every_time import check_same_every_time
from autopart.capture.torch_export import lower, without_cache
from autopart.capture.user_lines import OWN_FOLDER, TORCH_FOLDER, user_frame
from autopart.capture.with_loss import LossFunction, WithLoss
from autopart.errors import AutopartError, CaptureError, UnsupportedError

ADVICE = "use front_end='torch_export', which knows sizes and types while it runs the code, and all lines to change"


def capture(
    model: nn.Module, batch: Batch, loss: LossFunction | None = None, *, keep_whole: KeepWhole = ()
) -> Captured:
    """Capture `model` on the example `batch`; nothing is computed and nothing allocated.

    The arguments are those of `torch_export.capture`, and the graph is the same. Every layer is traced, equal ones too.

    Raises:
        CaptureError: the model does something that proxies cannot follow; the message names the line.
        InputsError: the batch holds no tensor, or something that is neither a tensor nor a plain value.
        UnsupportedError: `keep_whole` names modules.
    """
    if keep_whole:
        raise UnsupportedError(
            "front_end='fx_trace' keeps no modules whole: leave keep_whole out, or choose front_end='torch_export'"
        )
    example = example_of(model, batch)
    check_hooks(model, ())
    state = ModuleState(model)

    def traced() -> Captured:
        tracer = _Tracer(example)
        recording = (without_cache(model), calling_functions(_refuse), _restored(model), _Makers(tracer))
        with ExitStack() as stack:
            for context in (*recording, tracer.regions.seen(), state.seen()):
                stack.enter_context(context)
            calls = tracer.trace(model)

        def run(*args: Any, **kwargs: Any) -> Any:
            tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
            with preserve_node_meta():  # the user's lines and modules, from the calls to the ATen ops
                return fx.Interpreter(model, graph=calls).run(*tensors)

        return lower(model, example, WithLoss(model, example.rebuild, loss, call=run))

    try:
        captured = traced()
        check_same_every_time(model, state, captured, traced)
        return captured
    except AutopartError:
        raise
    except Exception as error:
        raise _refusal(model, error) from error


def _refuse(function: Applied, args: tuple[Any, ...]) -> Any:
    raise CaptureError("front_end='fx_trace' records torch's own calls only")


class _TraceError(Exception):
    """Something that proxies would answer wrongly, or not at all."""


class _Proxy(fx.Proxy):
    """A value of the model, of which nothing is known: code that asks for its type would get a wrong answer."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The type, as `isinstance` reads it; torch reads it too, from C in the name of whoever called torch."""
        caller = sys._getframe(1).f_code
        in_torch = caller.co_filename.startswith((TORCH_FOLDER, OWN_FOLDER))
        if caller.co_name == "is_tensor" or ("isinstance" in caller.co_names and not in_torch):
            raise _TraceError("the type of a value decides what runs")
        return type(self)


class _Tracer(fx.Tracer):
    """Traces a model on the batch of an example; layers of `torch.nn` are called whole."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.proxy_buffer_attributes = True
        self._example = example
        self._grad_enabled = torch.is_grad_enabled()
        self._casts = _casts()
        self.regions = CastRegions()

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Tensors of the batch are proxies; whatever else is in it is as the caller gave it."""
        proxies = tuple(self.create_proxy("placeholder", f"input_{name}", (), {}) for name in self._example.names)
        batch = self._example.rebuild(proxies)

        def forward() -> Any:
            return self.root.forward(**batch) if isinstance(batch, Mapping) else self.root.forward(*batch)

        return forward, []

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node, after a switch of the gradient mode where the model has switched it since the last one."""
        if _casts() != self._casts:
            raise _TraceError("a region of torch.autocast")
        if args[0] == "get_attr" and str(args[1]).startswith("_tensor_constant"):
            raise _TraceError("a tensor that is no parameter and no buffer: register it as a buffer")
        enabled = torch.is_grad_enabled()
        if enabled != self._grad_enabled:
            self._grad_enabled = enabled
            super().create_node("call_function", torch._C._set_grad_enabled, (enabled,), {})
        node = super().create_node(*args, **kwargs)
        if self.regions.off:
            mark_full(node)
        stack = node.meta.get("nn_module_stack", {})  # in an export, the model is called `model`
        node.meta["nn_module_stack"] = {key: (f"model.{path}", kind) for key, (path, kind) in stack.items()}
        return node

    def to_bool(self, obj: fx.Proxy) -> bool:
        """What an assertion asks is noted, and else nothing can be answered."""
        if not _asserts(sys._getframe(2)):
            return super().to_bool(obj)
        self.create_proxy("call_function", _assert, (obj,), {})
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What the model gets for the result of `node`."""
        return _Proxy(node, self)


class _Makers(TorchFunctionMode):
    """Notes calls that make tensors of no proxies (`torch.randn(8)`): to `torch.fx` their results are constants."""

    def __init__(self, tracer: fx.Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A proxy for what it makes; whatever is no tensor, as it is."""
        if any(issubclass(kind, fx.Proxy) for kind in types):
            return func(*args, **(kwargs or {}))
        with self._fake:
            result = func(*args, **(kwargs or {}))
        if not any(isinstance(item, torch.Tensor) for item in tree_leaves(result)):
            return result
        return self._tracer.create_proxy("call_function", func, args, kwargs or {})


def _asserts(frame: FrameType) -> bool:
    """Whether `frame` asks for a truth value in an `assert`: the next thing that it does otherwise is to fail."""
    following = [item for item in dis.get_instructions(frame.f_code) if item.offset >= frame.f_lasti][:3]
    names = [item.opname for item in following]
    return any("IF_TRUE" in jump and other == "LOAD_ASSERTION_ERROR" for jump, other in pairwise(names))


def _assert(condition: object) -> None:
    """What an `assert` of the model checks, where sizes decide it; values of tensors are not known."""
    if not isinstance(condition, torch.Tensor):
        assert condition, "an assert of the model fails"


def _casts() -> list[bool]:
    """Whether autocast is on, on each kind of device."""
    return [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")]


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Afterwards the modules have the attributes that they had, and lists and such in them what was inside."""
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    inside = [(held, held.copy()) for _, own in before for held in own.values() if isinstance(held, list | dict | set)]
    try:
        yield
    finally:
        for attributes, own in before:
            attributes.clear()
            attributes.update(own)
        for held, items in inside:
            held.clear()
            held.extend(items) if isinstance(held, list) else held.update(items)


def _refusal(model: nn.Module, error: Exception) -> CaptureError:
    """What the trace failed on, as a report with the user's line."""
    found = FoundPlaces()
    frame: FrameSummary | None = user_frame(traceback.extract_tb(error.__traceback__))
    reason = (str(error).strip().splitlines() or ["it gives no reason"])[0]
    found.add(frame, "", f"torch.fx cannot follow it: {type(error).__name__.strip('_')}: {reason}", ADVICE)
    return found.error(type(model).__name__)

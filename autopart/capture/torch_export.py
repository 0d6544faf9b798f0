"""Capture a model as a Graph with `torch.export`: non-strict, pre-dispatch ATen, the batch a symbol."""

import inspect
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from autopart.capture.batch_guards import check_batch_guards
from autopart.capture.captured import Captured
from autopart.capture.causal_masks import undetected_triangles
from autopart.capture.example import Example, example_of
from autopart.capture.example_inputs import Batch
from autopart.capture.found_places import FoundPlaces
from autopart.capture.functional import functional
from autopart.capture.gradient_hooks import check_hooks, refusing_hooks
from autopart.capture.hidden_layers import HiddenLayers, LayersNeededError, hidden_layers
from autopart.capture.keep_whole import KeepWhole, KeptModules
from autopart.capture.kept_tensors import changed_in_place, check_kept_tensor
from autopart.capture.regions import check_regions
from autopart.capture.same_every_time import check_same_every_time
from autopart.capture.simplify import simplify
from autopart.capture.survey import Survey
from autopart.capture.trace_once import TraceOnce
from autopart.capture.translate import Translator, to_size
from autopart.capture.user_lines import user_frame
from autopart.capture.with_loss import ForwardError, LossFunction, WithLoss
from autopart.errors import AutopartError, CaptureError, UnsupportedError
from autopart.ir.graph import Constant, Graph, Input, Parameter, Update


def capture(
    model: nn.Module,
    batch: Batch,
    loss: LossFunction | None = None,
    *,
    every_layer: bool = False,
    keep_whole: KeepWhole = (),
) -> Captured:
    """Capture `model` on the example `batch`; nothing is computed and nothing allocated.

    Args:
        model: any module; its tensors may be on `meta`.
        batch: keyword arguments or positional ones; every tensor whose first dim is the batch size is taken as batched.
            Where that cannot be captured, so is one whose first dim is a multiple, with the rows of a sample together.
        loss: a function of (output, batch). Left out, the loss is the model's own: a scalar output, or `.loss` in it.
        every_layer: trace layers that do the same as others too; slower, and the graph is the same.
        keep_whole: names of modules that are not looked into, `*` standing for one name in a path. Each is run by
            itself on random inputs, to see what it returns; in a mapping, a function may take its place for that.

    Raises:
        CaptureError: the model cannot be traced; the message and `places` have every line that stands in the way.
        InputsError: the batch holds no tensor, or something that is neither a tensor nor a plain value.
        UnknownNameError: a name of `keep_whole` that no module has.
    """
    example = example_of(model, batch)
    kept = KeptModules(model, keep_whole)
    check_hooks(model, keep_whole)
    try:
        return kept.exported(lambda: _with_report(model, example, loss, every_layer))
    except CaptureError:
        example = example_of(model, batch, repeats=True)
        if not example.repeats:
            raise
        # A table whose size is a multiple by chance is read right at first; only where that fails, several rows are
        # taken for one sample's.
        with suppress(CaptureError):
            return kept.exported(lambda: _with_report(model, example, loss, every_layer))
        raise


def _with_report(model: nn.Module, example: Example, loss: LossFunction | None, every_layer: bool) -> Captured:
    if not every_layer:
        try:
            return _traced_once(model, example, loss)
        except GuardOnDataDependentSymNode as error:
            # The model's own code asked for a value, which it would do on the long way too.
            found = _survey(model, example, loss)
            if found.count:
                raise found.error(type(model).__name__) from error
        except Exception:
            pass  # whatever goes wrong on the short way, the long one is right, and its errors are the model's
    try:
        return lower(model, example, WithLoss(model, example.rebuild, loss))
    except AutopartError:
        raise
    except Exception as error:
        raise _report(model, example, loss, error) from error


def _traced_once(model: nn.Module, example: Example, loss: LossFunction | None) -> Captured:
    shown: frozenset[str] = frozenset()
    while True:
        hidden = hidden_layers(model, shown)
        wrapper = WithLoss(model, example.rebuild, loss, TraceOnce(model, hidden), hidden=hidden.modules)
        try:
            return lower(model, example, wrapper, hidden)
        except LayersNeededError as error:
            shown |= error.paths


def lower(model: nn.Module, example: Example, wrapper: WithLoss, hidden: HiddenLayers | None = None) -> Captured:
    """The graph of `wrapper`, which runs `model` and its loss, exported at `example`; some layers may be `hidden`."""
    captured = _lowered(model, example, wrapper, hidden)

    def again() -> Captured:
        return _lowered(model, example, wrapper, hidden)

    def with_kept() -> Captured:
        with wrapper.returning_kept():
            return again()

    check_same_every_time(model, wrapper.state, captured, again, with_kept)
    return captured


def _lowered(model: nn.Module, example: Example, wrapper: WithLoss, hidden: HiddenLayers | None) -> Captured:
    exported = _export(wrapper, example)
    check_regions(exported.graph_module, type(model).__name__)
    with _silent_export():
        exported = functional(exported)
    for name, dims, size in zip(example.names, example.dims, _first_sizes(exported), strict=True):
        if dims and isinstance(size, int):
            raise _FixedBatchError(f"the batch size of {name!r} is fixed to {size}")
    check_batch_guards(exported, type(model).__name__, example.most_rows)
    return _captured(model, exported, example, hidden or HiddenLayers())


class _FixedBatchError(Exception):
    """The graph holds for one batch size only."""


def _survey(model: nn.Module, example: Example, loss: LossFunction | None) -> FoundPlaces:
    """The places in the model's code that stand in the way."""
    found, ended = FoundPlaces(), False
    for first in (True, False):  # both ways of a branch, where it has two
        survey = Survey(model, found, first)
        with suppress(Exception):
            _export(WithLoss(model, example.rebuild, loss, survey), example)
        if survey.ended:
            ended = True
        if not survey.branched:
            break
    if ended:
        found.stopped = None  # one of the ways leads to the end
    return found


def _report(model: nn.Module, example: Example, loss: LossFunction | None, error: Exception) -> CaptureError:
    """Everything in the model's code that stands in the way, after an export that failed with `error`."""
    found = _survey(model, example, loss)
    if (text := changed_in_place(model, error)) is not None:
        return CaptureError(text)
    if not found.count:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it gives no reason"
        frame = user_frame(traceback.extract_tb(error.__traceback__))
        found.add(frame, "", f"{type(error).__name__}: {reason}", "see the cause above this error")
    return found.error(type(model).__name__)


def _export(wrapper: WithLoss, example: Example) -> Any:
    model = wrapper.model
    with without_cache(model), _silent_export(), refusing_hooks(model), undetected_triangles():
        try:
            return torch.export.export(wrapper, example.tensors, dynamic_shapes={"tensors": example.dims}, strict=False)
        except ForwardError as error:
            raise error.__cause__ or error from None


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Hugging Face models fill a key-value cache in training too, where nothing reads it; it clutters the graph."""
    configs = [getattr(module, "config", None) for module in model.modules()]  # an encoder and a decoder have their own
    caching = [config for config in configs if getattr(config, "use_cache", False)]
    for config in caching:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True  # type: ignore[union-attr]


@contextmanager
def _silent_export() -> Iterator[None]:
    """Export warns, and logs what it then raises; the report says it once."""
    loggers = [logging.getLogger(name) for name in ("torch.export._trace", "torch.fx.experimental.symbolic_shapes")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _captured(model: nn.Module, exported: Any, example: Example, hidden: HiddenLayers) -> Captured:
    signature = exported.graph_signature
    mutated = [spec for spec in signature.output_specs if spec.kind is not OutputKind.USER_OUTPUT]
    for spec in mutated:
        if spec.kind is not OutputKind.BUFFER_MUTATION:
            raise UnsupportedError(
                f"{type(model).__name__} changes {_own_name(spec)} in its forward: only buffers "
                "may change there; write the result to a new tensor"
            )
    canonical, aliases = _parameter_names(model)
    translator = Translator()
    inputs: list[Input] = []
    parameters: list[Parameter] = []
    constants: list[Constant] = []
    tensors: dict[str, torch.Tensor] = {}
    user_names = iter(example.names)
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for node, spec in _placeholders(model, exported, hidden):
        if isinstance(spec, _HiddenTensor):
            value = translator.hidden(spec.target, spec.name, spec.tensor, spec.parameter)
            if spec.parameter:
                parameters.append(Parameter(value, spec.target))
            else:
                constants.append(Constant(value, spec.target))
                tensors[spec.target] = spec.tensor
        elif spec.kind is InputKind.USER_INPUT:
            path = next(user_names)
            inputs.append(Input(translator.placeholder(node, _argument_name(model, path)), path))
        elif spec.kind is InputKind.PARAMETER:
            target = canonical[spec.target.removeprefix("model.")]
            value = translator.placeholder(node, node.name.replace("p_model_", "p_", 1), parameter=True)
            parameters.append(Parameter(value, target, aliases[target]))
        else:
            target = str(spec.target).removeprefix("model.")
            constants.append(Constant(translator.placeholder(node, node.name.replace("_model_", "_", 1)), target))
            source = exported.constants if spec.target in exported.constants else exported.state_dict
            tensors[target] = source[spec.target]
            if target not in buffers:
                check_kept_tensor(model, target, tensors[target])
    translator.body(exported.graph_module)
    changed = dict(zip((_own_name(spec) for spec in mutated), translator.outputs, strict=False))
    updates = tuple(Update(item.value.name, changed[item.target]) for item in constants if item.target in changed)
    outputs = translator.outputs[len(mutated) :]
    shapes = {value.name: value.shape for node in translator.nodes for value in node.outputs}
    scalar = len(outputs) == 1 and shapes.get(outputs[0]) == ()  # only a loss is returned as a scalar
    # The model's buffers first, in whichever order a front end comes upon them and upon tensors made of data.
    constants.sort(key=lambda item: item.target not in buffers)
    graph = Graph(
        name=type(model).__name__,
        inputs=tuple(inputs),
        parameters=tuple(parameters),
        constants=tuple(constants),
        nodes=tuple(translator.nodes),
        outputs=outputs,
        loss=outputs[0] if scalar else None,
        example_batch=example.batch_size,
        updates=updates,
    )
    return Captured(simplify(graph, tensors), tensors)


@dataclass(frozen=True)
class _HiddenTensor:
    """In place of an export's specification; `name` is what it would be called there."""

    target: str
    tensor: torch.Tensor

    @property
    def parameter(self) -> bool:
        return isinstance(self.tensor, nn.Parameter)

    @property
    def name(self) -> str:
        return ("p_" if self.parameter else "b_") + re.sub("[^a-z0-9]", "_", self.target.lower())


def _placeholders(model: nn.Module, exported: Any, hidden: HiddenLayers) -> list[tuple[Any, Any]]:
    """The placeholders with their specifications; those that hidden tensors would have, where they would stand."""
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder"]
    found: list[tuple[Any, Any]] = [*zip(nodes, exported.graph_signature.input_specs, strict=True)]
    if not hidden.names:
        return found
    own = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    places = {name: place for place, (name, _) in enumerate(own)}
    found += [(None, _HiddenTensor(name, tensor)) for name, tensor in own if id(tensor) in hidden.names]

    def place(item: tuple[Any, Any]) -> int:
        spec = item[1]
        name = spec.target if isinstance(spec, _HiddenTensor) else _own_name(spec)
        return places.get(name, len(places))  # what is no tensor of the model comes last

    return sorted(found, key=place)


def _own_name(spec: Any) -> str:
    """What the model itself calls the buffer of an export's specification."""
    return str(spec.target).removeprefix("model.")


def _argument_name(model: nn.Module, path: str) -> str:
    """The name that the model's `forward` gives the input at `path`."""
    if not path.isdigit():
        return path
    names = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return names[int(path)] if int(path) < len(names) else f"input_{path}"


def _parameter_names(model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Every name of a parameter to its first one, and the first ones to the others (tied weights have several)."""
    by_tensor: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(parameter), []).append(name)
    canonical = {name: group[0] for group in by_tensor.values() for name in group}
    return canonical, {group[0]: tuple(group[1:]) for group in by_tensor.values()}


def _first_sizes(exported: Any) -> list[Any]:
    """The size of the first dim of every input of the user, None for a scalar."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    specs = [spec for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    shapes = [nodes[spec.arg.name].meta["val"].shape for spec in specs]
    return [to_size(shape[0]) if shape else None for shape in shapes]

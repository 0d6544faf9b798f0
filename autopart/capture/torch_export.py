"""Capture a model as a Graph with `torch.export`: non-strict, pre-dispatch ATen, the batch a symbol."""

import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind

from autopart.capture.example_inputs import Batch
from autopart.capture.simplify import simplify
from autopart.capture.trace_once import TraceOnce
from autopart.capture.translate import Translator, to_size
from autopart.capture.user_lines import line_that_fixes, user_line
from autopart.errors import CaptureError, InputsError, UnsupportedError
from autopart.ir.graph import Constant, Graph, Input, Parameter, Update

# Export treats sizes 0 and 1 as special, so the example batch is enlarged; the number itself leaves no trace.
EXPORT_BATCH = 4

LossFunction = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Captured:
    """A graph and the tensors that it closes over, by their target names."""

    graph: Graph
    constants: Mapping[str, torch.Tensor]


def capture(model: nn.Module, batch: Batch, loss: LossFunction | None = None, *, every_layer: bool = False) -> Captured:
    """Capture `model` on the example `batch`; nothing is computed and nothing allocated.

    Args:
        model: any module; its tensors may be on `meta`.
        batch: keyword arguments or positional ones; every tensor whose first dim is the batch size is taken as batched.
        loss: a function of (output, batch). Left out, the loss is the model's own: a scalar output, or `.loss` in it.
        every_layer: trace layers that do the same as others too; slower, and the graph is the same.

    Raises:
        CaptureError: the model cannot be traced; the message gives the file and line.
        InputsError: the batch holds no tensor, or something that is neither a tensor nor a plain value.
    """
    example = _example(model, batch)
    if not every_layer:
        # Whatever goes wrong on the short way, the long one is right, and its errors are the model's.
        with suppress(Exception):
            return _capture(model, example, _WithLoss(model, example.rebuild, loss, TraceOnce(model)))
    return _capture(model, example, _WithLoss(model, example.rebuild, loss))


@dataclass(frozen=True)
class _Example:
    """The tensors of a batch by name: what to export with, which of their dims are free, and the way back."""

    names: list[str]
    tensors: tuple[torch.Tensor, ...]
    dims: tuple[dict[int, Any], ...]
    batch_size: int
    rebuild: Callable[..., Batch]


def _example(model: nn.Module, batch: Batch) -> _Example:
    names, tensors, rebuild = _flatten(batch)
    batch_size = tensors[0].shape[0] if tensors[0].ndim else 0
    if not batch_size:
        raise InputsError(
            f"the first tensor of the batch, {names[0]!r}, has no batch dim: its shape is {tuple(tensors[0].shape)}"
        )
    batched = [tensor.ndim > 0 and tensor.shape[0] == batch_size for tensor in tensors]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    examples = tuple(
        torch.zeros(
            (EXPORT_BATCH, *tensor.shape[1:]) if is_batched else tensor.shape, dtype=tensor.dtype, device=device
        )
        for tensor, is_batched in zip(tensors, batched, strict=True)
    )
    dims = tuple({0: Dim.AUTO} if flag else {} for flag in batched)
    return _Example(names, examples, dims, batch_size, rebuild)


def _capture(model: nn.Module, example: _Example, wrapper: "_WithLoss") -> Captured:
    exported = _export(wrapper, example)
    for name, dims, size in zip(example.names, example.dims, _first_sizes(exported), strict=True):
        if dims and isinstance(size, int):
            where = line_that_fixes(lambda: _export(wrapper, example))
            raise CaptureError(
                f"{type(model).__name__} fixes the batch size of {name!r} at {where or 'an unknown line'}: the "
                "graph would hold for one size only. Take sizes from the input (x.shape[0]), and have no constants of "
                "the batch's size in forward"
            )
    return _captured(model, exported, example)


class _WithLoss(nn.Module):
    """The model followed by its loss, taking the tensors of the batch by position."""

    def __init__(
        self,
        model: nn.Module,
        rebuild: Callable[..., Batch],
        loss: LossFunction | None,
        trace_once: TraceOnce | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._rebuild = rebuild
        self._loss = loss
        self._trace_once = trace_once

    def forward(self, *tensors: torch.Tensor) -> Any:
        if self._trace_once is None:
            return self._result(tensors)
        with self._trace_once.active():
            result = self._result(tensors)
        self._trace_once.check(result)
        return result

    def _result(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        batch = self._rebuild(tensors)
        output = self.model(**batch) if isinstance(batch, Mapping) else self.model(*batch)
        loss = self._loss(output, batch) if self._loss is not None else _own_loss(output)
        if loss is None:
            return _tensors(output)
        if loss.ndim:
            raise CaptureError(f"the loss has shape {tuple(loss.shape)}: it must be a scalar, for example its mean")
        return loss


def _own_loss(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.ndim == 0 else None
    candidate = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return candidate if isinstance(candidate, torch.Tensor) else None


def _tensors(output: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(output, torch.Tensor):
        return (output,)
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    found = tuple(item for item in items if isinstance(item, torch.Tensor))
    if not found:
        raise CaptureError(f"the model returns a {type(output).__name__} with no tensor in it")
    return found


def _flatten(batch: Batch) -> tuple[list[str], list[torch.Tensor], Callable[..., Batch]]:
    """The names and tensors of a batch, and the function that puts them back among its plain values."""
    items = list(batch.items()) if isinstance(batch, Mapping) else [(str(i), item) for i, item in enumerate(batch)]
    tensors = {name: item for name, item in items if isinstance(item, torch.Tensor)}
    plain = {name: item for name, item in items if name not in tensors}
    for name, item in plain.items():
        if not isinstance(item, bool | int | float | str | None):
            raise InputsError(f"batch item {name!r} is a {type(item).__name__}: tensors and plain values are supported")
    if not tensors:
        raise InputsError("the example batch holds no tensor")

    def rebuild(values: tuple[torch.Tensor, ...]) -> Batch:
        known = {**plain, **dict(zip(tensors, values, strict=True))}
        ordered = {name: known[name] for name, _ in items}
        return ordered if isinstance(batch, Mapping) else tuple(ordered.values())

    return list(tensors), list(tensors.values()), rebuild


def _export(wrapper: _WithLoss, example: _Example) -> Any:
    try:
        with warnings.catch_warnings(), _without_cache(wrapper.model):
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                wrapper, example.tensors, dynamic_shapes={"tensors": example.dims}, strict=False
            )
            if any(_mutates(node) for node in exported.graph.nodes):
                exported = exported.run_decompositions({})  # makes in-place ops functional; composite ops stay whole
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_explain(wrapper.model, error)) from error
    return exported


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
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


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _explain(model: nn.Module, error: Exception) -> str:
    where = user_line(traceback.extract_tb(error.__traceback__)) or "a line that is not known"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    data_dependent = any(
        word in f"{type(error).__name__} {error}" for word in ("DataDependent", "data-dependent", "Could not guard")
    )
    advice = (
        "the value of a tensor decides what runs: use torch.where, or move the decision out of forward"
        if data_dependent
        else "the graph must be the same for every batch: see the cause above this error"
    )
    return f"{type(model).__name__} cannot be captured at {where}: {type(error).__name__}: {reason}. {advice}"


def _captured(model: nn.Module, exported: Any, example: _Example) -> Captured:
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
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            path = next(user_names)
            inputs.append(Input(translator.placeholder(node, _argument_name(model, path)), path))
        elif spec.kind is InputKind.PARAMETER:
            target = canonical[spec.target.removeprefix("model.")]
            value = translator.placeholder(node, node.name.replace("p_model_", "p_", 1))
            parameters.append(Parameter(value, target, aliases[target]))
        else:
            target = str(spec.target).removeprefix("model.")
            constants.append(Constant(translator.placeholder(node, node.name.replace("_model_", "_", 1)), target))
            source = exported.constants if spec.target in exported.constants else exported.state_dict
            tensors[target] = source[spec.target]
    translator.body(exported.graph_module)
    changed = dict(zip((_own_name(spec) for spec in mutated), translator.outputs, strict=False))
    updates = tuple(Update(item.value.name, changed[item.target]) for item in constants if item.target in changed)
    outputs = translator.outputs[len(mutated) :]
    shapes = {value.name: value.shape for node in translator.nodes for value in node.outputs}
    scalar = len(outputs) == 1 and shapes.get(outputs[0]) == ()  # only a loss is returned as a scalar
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

"""Build recording: what is replayed of a model's initialization is what one process has, to the last bit."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from autopart.errors import AutopartError, CheckpointError
from autopart.runtime.build_recording import BuildRecording
from autopart.runtime.build_replay import draws, replay
from autopart.runtime.build_tape import View
from tests.models import build, case

SEED = 3


class Odd(nn.Module):
    """Everything that initializations do: seeds and generators of their own, values read, layers written twice."""

    def __init__(self) -> None:
        super().__init__()
        self.orthogonal = nn.Linear(33, 17)
        nn.init.orthogonal_(self.orthogonal.weight)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.seeded = nn.Linear(7, 5)
            state = torch.get_rng_state()
        self.after = nn.Linear(7, 5)
        torch.set_rng_state(state)
        self.resumed = nn.Linear(7, 5)
        generator = torch.Generator().manual_seed(2)
        self.own = nn.Parameter(torch.randn(50, generator=generator))
        generator.manual_seed(2)
        self.again = nn.Parameter(torch.randn(50, generator=generator) * torch.rand(50, generator=generator))
        rates = torch.linspace(0, 1, 3).tolist()
        self.read = nn.Parameter(torch.full((3,), float(torch.rand(())) + rates[1]))
        nn.init.trunc_normal_(self.orthogonal.weight[:, :5])
        nn.init.sparse_(self.resumed.weight, 0.3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(9, 4))
        self.turned = nn.utils.parametrizations.orthogonal(nn.Linear(9, 9)).to(torch.float64)
        self.recurrent = nn.LSTM(4, 5, 2)
        self.embedding = nn.Embedding(9, 4, padding_idx=2)
        self.head = nn.Linear(4, 9)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.triu(torch.full((4, 4), float("-inf")), 1))
        self.table: torch.Tensor = torch.tensor([1.0, 2.0]).mul_(3)
        self.picked = nn.Parameter(torch.bernoulli(torch.full((20,), 0.5)) + torch.randperm(20))
        self.dropped = nn.Parameter(torch.dropout(torch.ones(30), 0.5, True))
        self.array = nn.Parameter(torch.from_numpy(np.arange(3.0)).clone() + self.read.detach().numpy()[0])
        on_cpu = self.read.device.type == "cpu" and self.read.is_cpu and not self.read.is_meta
        self.stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12), 2, enable_nested_tensor=False)
        self.register_buffer("copied", copy.deepcopy(self.own.detach()))
        self.stored = nn.Parameter(torch.empty(0).set_(self.own.detach().untyped_storage().clone(), 0, (5, 10)))
        self.branch = nn.Parameter(torch.full((2,), 1.0 if on_cpu else 2.0))
        with torch.no_grad():
            for weight in self.parameters():
                if weight.is_floating_point():
                    weight += 0.1 * torch.rand_like(weight)


def _odd() -> nn.Module:
    return Odd().half()


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "odd": _odd,
    "seed of its own": partial(build, "gpt", torch.float64),
    **{name: case(name).build for name in ("gpt2", "llama", "bert", "t5", "mixtral", "conv_net")},
}


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {**found, "table": model.table} if isinstance(model, Odd) else found


@pytest.mark.parametrize("make", BUILDS.values(), ids=BUILDS.keys())
def test_all_tensors_and_single_ones_are_those_of_one_process(make: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        expected = _tensors(make())
    before = torch.get_rng_state()
    recording = BuildRecording(make, SEED)
    found = _tensors(recording.model)
    assert found.keys() == expected.keys()
    assert all(tensor.is_meta for tensor in found.values())
    views = {name: recording.view(tensor) for name, tensor in found.items()}
    some = [name for name in sorted(views) if "weight" in name][1::3] or list(views)
    for wanted in (list(views), some, list(views)[-1:]):
        left = set(wanted)
        names: dict[View, list[str]] = {}
        for name in wanted:
            names.setdefault(views[name], []).append(name)
        for view, values in replay(recording.tape, list(names)):
            for name in names[view]:
                left.remove(name)
                assert (values.dtype, values.stride()) == (expected[name].dtype, expected[name].stride()), name
                assert torch.equal(values, expected[name].detach()), name
        assert not left
    assert torch.equal(torch.get_rng_state(), before)


def test_only_what_draws_is_said_to_draw() -> None:
    recording = BuildRecording(_odd, SEED)
    random = {n: draws(recording.tape, [recording.view(x)]) for n, x in _tensors(recording.model).items()}
    assert [name for name, drawn in random.items() if not drawn] == ["mask", "table"]


class Alive(TorchDispatchMode):
    """How many storages of at least so many bytes are alive after each op, of those that ops return."""

    def __init__(self, least_bytes: int) -> None:
        super().__init__()
        self.least_bytes = least_bytes
        self.counts: list[int] = []
        self._alive: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() >= self.least_bytes:
            ref = StorageWeakRef(result.untyped_storage())
            self._alive[ref.cdata] = ref
        self._alive = {key: ref for key, ref in self._alive.items() if not ref.expired()}
        self.counts.append(len(self._alive))
        return result


class Ops(TorchDispatchMode):
    """The names of all ops."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


LAYERS, WIDTH = 12, 64


def _twice(fill: Callable[[torch.Tensor], object]) -> nn.Module:
    """All layers are drawn twice, each when it is made, and then all again: as those of transformers are."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    for layer in model:
        fill(layer.weight)
    return model


# Since torch 2.13; before, it draws evenly between the bounds, as the inverse of the distribution takes them.
DRAWS_AGAIN = "while" in inspect.getsource(nn.init._no_grad_trunc_normal_)


@pytest.mark.parametrize(
    ("fill", "most"), [(nn.init.normal_, 1), (nn.init.trunc_normal_, 3 if DRAWS_AGAIN else 1)], ids=["normal", "trunc"]
)
def test_a_replay_holds_what_one_initialization_does(fill: Callable[[torch.Tensor], object], most: int) -> None:
    """`trunc_normal_` draws again what was out of bounds, as long as there is any: it reads values."""
    recording = BuildRecording(partial(_twice, fill), SEED)
    views = [recording.view(layer.weight) for layer in recording.model]
    with Alive(WIDTH * WIDTH * 4) as alive:
        for _, values in replay(recording.tape, views):
            del values
    assert max(alive.counts) == most


def test_numbers_are_drawn_once_where_values_are_read() -> None:
    recording = BuildRecording(partial(_twice, nn.init.trunc_normal_), SEED)
    view = recording.view(recording.model[-1].weight)
    with Ops() as ops:
        list(replay(recording.tape, [view]))
    if DRAWS_AGAIN:
        assert 1 <= ops.names.count("normal_") < 12 and "uniform_" not in ops.names
    recording = BuildRecording(partial(_twice, nn.init.normal_), SEED)
    view = recording.view(recording.model[-1].weight)
    with Ops() as ops:
        list(replay(recording.tape, [view]))
    assert (ops.names.count("uniform_"), ops.names.count("normal_")) == (LAYERS, LAYERS)


def _on_cuda() -> nn.Module:
    return nn.Linear(2, 2, device="cuda")


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(2, 2)


def _into_an_array() -> nn.Module:
    torch.from_numpy(np.ones(3)).mul_(2)
    return nn.Linear(2, 2)


def _from_a_storage() -> nn.Module:
    layer = nn.Linear(2, 2)
    storage = torch.UntypedStorage(16, device=layer.weight.untyped_storage().device)
    layer.weight.data = torch.empty(0).set_(storage, 0, (2, 2))
    return layer


def _through_numpy() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight.detach().numpy()[:] = 1
    return layer


def _nothing() -> nn.Module:
    return torch.ones(2)  # type: ignore[return-value]


ERRORS = {
    "build makes tensors on cuda: let it build the model on the CPU": _on_cuda,
    "build makes tensors on meta: let it build the model on the CPU": _on_meta,
    r"build writes with aten.mul_.\w+ into a tensor that torch did not make for it, of shape \(3,\)": _into_an_array,
    "build returned a Tensor: it must return the model": _nothing,
}


@pytest.mark.parametrize("message", ERRORS)
def test_what_cannot_be_followed_is_an_error(message: str) -> None:
    with pytest.raises(AutopartError, match=message):
        BuildRecording(ERRORS[message], SEED)


def test_what_goes_around_ops_is_never_taken_for_a_value() -> None:
    recording = BuildRecording(_from_a_storage, SEED)
    with pytest.raises(
        CheckpointError, match="build gives 1 tensors their values by other means than the ops of torch"
    ):
        list(replay(recording.tape, [recording.view(recording.model.weight)]))
    with pytest.raises(ValueError, match="read-only"):
        BuildRecording(_through_numpy, SEED)

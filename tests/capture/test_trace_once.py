"""Tracing one of each kind of layer gives the graph that tracing all of them gives, to the last name and line."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture import translate
from autopart.capture.example_inputs import example_inputs
from autopart.capture.torch_export import Captured, capture
from tests.capture.models import tiny_gpt, tiny_gpt2, tiny_llama, token_batch
from tests.models import MORE_CASES, case

BATCH = torch.empty(4, 8)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the layers that were written out from another."""
    paths: list[str] = []
    original = translate.expand

    def expand(layer: Any, outside: Any, path: str, *rest: Any) -> Any:
        paths.append(path)
        return original(layer, outside, path, *rest)

    monkeypatch.setattr(translate, "expand", expand)
    return paths


def assert_same(model: nn.Module, inputs: object | None = None, loss: Any = None) -> Captured:
    """That both ways give one graph; the short one."""
    batch = example_inputs(model, inputs)
    short, full = capture(model, batch, loss), capture(model, batch, loss, every_layer=True)
    assert str(short.graph) == str(full.graph)
    assert short.graph == full.graph  # scopes and locations too
    assert short.graph.fingerprint == full.graph.fingerprint
    assert list(short.constants) == list(full.constants)
    return short


# Those of one kind of layer in a row are below.
@pytest.mark.parametrize("name", ["residual_mlp", "conv_net", *MORE_CASES])
def test_models_of_the_equality_matrix(name: str) -> None:
    chosen = case(name)
    assert_same(chosen.build(), chosen.batch(torch.float32), chosen.loss)


@pytest.mark.parametrize(("build", "layers"), [(tiny_llama, 3), (tiny_gpt2, 3), (tiny_gpt, 4)])
def test_all_layers_but_one_are_repeated(copies: list[str], build: Any, layers: int) -> None:
    assert_same(build(layers=layers), token_batch() if build is tiny_gpt else None)
    assert len(copies) == layers - 1


def test_with_dropout(copies: list[str]) -> None:
    assert_same(tiny_gpt2(layers=3, dropout=0.1))
    assert len(copies) == 2


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
FOUR = {"num_hidden_layers": 4}  # where layers of two kinds are mixed
WINDOWED = {**GROUPED, **FOUR, "head_dim": 8, "sliding_window": 4}
LATENT = {
    **FOUR,
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "first_k_dense_replace": 2,
}  # fmt: skip
# The sizes of a model and how many of its layers are like an earlier one. Falcon's layers hold data: all are traced.
TRANSFORMERS: dict[str, tuple[dict[str, Any], int]] = {
    "Gemma3": ({**WINDOWED, "sliding_window_pattern": 3}, 3),
    "Qwen2Moe": ({**GROUPED, **FOUR, "decoder_sparse_step": 2, "num_experts": 4, "moe_intermediate_size": 16}, 2),
    "DeepseekV3": (LATENT, 2),
    "GPTNeoX": ({}, 2),
    "Mamba": ({"state_size": 4}, 2),
    "OPT": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, 2),
    "Falcon": ({}, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(copies: list[str], name: str) -> None:
    import transformers

    sizes, repeated = TRANSFORMERS[name]
    config_name = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    with torch.device("meta"):
        config = getattr(transformers, config_name)(**{**SIZES, **sizes})
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    tokens, labels = token_batch()
    assert_same(model, {"input_ids": tokens, "labels": labels})
    assert len(copies) == repeated


@pytest.mark.slow
def test_whisper(copies: list[str]) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16,
        max_target_positions=16, decoder_start_token_id=0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    assert_same(model, {"input_features": torch.empty(2, 8, 32), "labels": torch.zeros(2, 16, dtype=torch.long)})
    assert {path.rpartition(".")[0] for path in copies} == {"model.encoder.layers", "model.decoder.layers"}


class Layer(nn.Module):
    """A layer with something to `add`, called with what goes around and the layer itself."""

    def __init__(self, number: int, add: Callable[[torch.Tensor, "Layer"], Any]) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.number = number
        self.add = add

    def forward(self, x: torch.Tensor, **extra: torch.Tensor | None) -> Any:
        return self.add(x + self.down(torch.tanh(self.up(x))), self, **extra)


class Stack(nn.Module):
    """Layers in a row, after one of another kind."""

    def __init__(self, add: Callable[..., Any], count: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.layers = nn.ModuleList(Layer(number, add) for number in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return x.square().sum()


def plain(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x


def by_number(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * 2 if layer.number == 2 else x


def numbered(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * (layer.number + 1)


def alternating(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x.relu() if layer.number % 2 else x.sigmoid()


def without_gradients(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    with torch.no_grad():
        scale = x.abs().mean(-1, keepdim=True)
    return x / scale


def now_and_then_without_gradients(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    with torch.set_grad_enabled(layer.number % 2 == 0):
        size = x.abs()
    return x + size


def in_place_inside(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return (x * 2).relu_()


def data(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * torch.tensor([1.0, 2.0] * 4)


def list_index(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x + x[:, [3]]


def literal_batch(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x.view(-1, 8) if layer.number % 2 else x.view(x.shape[0], 8)


def sizes(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    rows, width = x.shape
    return x.reshape(rows * 2, width // 2).reshape(x.size(0), -1)


def random(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return F.dropout(x, 0.5) + torch.rand_like(x)


class TestOneLayerAfterAnother:
    @pytest.mark.parametrize(
        ("add", "repeated"),
        [
            (plain, [1, 2, 3]),
            (by_number, [1, 3]),
            (numbered, []),
            (alternating, [2, 3]),
            (without_gradients, [1, 2, 3]),
            (now_and_then_without_gradients, [2, 3]),
            (in_place_inside, [1, 2, 3]),
            (data, []),
            (list_index, []),
            (literal_batch, [2, 3]),
            (sizes, [1, 2, 3]),
            (random, [1, 2, 3]),
        ],
    )
    def test_what_they_do(self, copies: list[str], add: Callable[..., Any], repeated: list[int]) -> None:
        assert_same(Stack(add), BATCH)
        assert copies == [f"layers.{number}" for number in repeated]

    def test_autocast(self, copies: list[str]) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=layer.number > 0):
                return (x @ x.transpose(0, 1)).float() @ x

        assert_same(Stack(add), BATCH)
        assert "layers.1" not in copies

    def test_more_ways_than_are_compared(self, copies: list[str]) -> None:
        assert_same(Stack(numbered, count=11), BATCH)
        assert copies == []

    def test_frozen(self, copies: list[str]) -> None:
        model = Stack(plain, count=5)
        model.layers[2].requires_grad_(False)
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3", "layers.4"]

    def test_tied_weights(self, copies: list[str]) -> None:
        model = Stack(plain, count=5)
        model.layers[3].up.weight = model.layers[1].up.weight
        graph = assert_same(model, BATCH).graph
        (tied,) = [parameter for parameter in graph.parameters if parameter.aliases]
        assert len(graph.consumers[tied.value.name]) == 2
        assert len(copies) == 4

    def test_one_weight_at_two_places(self, copies: list[str]) -> None:
        """All layers look alike, but one uses a weight twice."""
        model = Stack(plain)
        for layer in model.layers:
            layer.up, layer.down = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        model.layers[2].down.weight = model.layers[2].up.weight
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3"]

    def test_a_layer_called_twice(self, copies: list[str]) -> None:
        model = Stack(plain)
        model.layers.append(model.layers[1])
        assert_same(model, BATCH)
        assert copies

    def test_a_hook(self, copies: list[str]) -> None:
        model = Stack(plain)
        model.layers[2].register_forward_hook(lambda module, args, output: output * 3)
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3"]

    def test_on_cpu_and_on_meta(self) -> None:
        real = Stack(plain)
        assert assert_same(real, BATCH).graph == assert_same(Stack(plain).to("meta"), BATCH).graph


class TestReachingIntoEachOther:
    """What a layer leaves behind for others. Only every layer traced gets these right."""

    @pytest.fixture
    def kept(self) -> Iterator[dict[str, torch.Tensor]]:
        yield {}

    def test_a_value_used_by_the_next(self, kept: dict[str, torch.Tensor]) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            before = kept.get("x") if layer.number else None
            kept["x"] = x.exp()
            return x if before is None else x + before

        assert_same(Stack(add), BATCH)

    def test_the_value_of_the_first_or_its_own(self, kept: dict[str, torch.Tensor]) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            own = x.exp()
            if layer.number == 0:
                kept.clear()
            return x + kept.setdefault("x", own)

        assert_same(Stack(add), BATCH)

    def test_a_value_used_at_the_end(self) -> None:
        class Leaking(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                kept.clear()
                return super().forward(x) + sum(value.sum() for value in kept)

        kept: list[torch.Tensor] = []

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            kept.append(x.exp())
            return x

        assert_same(Leaking(add), BATCH)

    def test_a_value_returned_by_the_model(self) -> None:
        class Returning(Stack):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
                kept.clear()
                return (super().forward(x), *kept)

        kept: list[torch.Tensor] = []

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            kept.append(x.exp())
            return x

        assert len(assert_same(Returning(add), BATCH).graph.outputs) == 5

    def test_an_input_changed_in_place(self, copies: list[str]) -> None:
        def add(x: torch.Tensor, layer: Layer, **extra: torch.Tensor) -> torch.Tensor:
            extra["total"].add_(x)
            return x

        class Totals(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                total = torch.zeros_like(x)
                for layer in self.layers:
                    x = layer(x, total=total)
                return (x * total).sum()

        assert_same(Totals(add), BATCH)
        assert copies == []

    def test_a_result_changed_in_place(self) -> None:
        class InPlace(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                for layer in self.layers:
                    x = layer(x)
                    x += 1
                return x.sum()

        assert_same(InPlace(plain), BATCH)

    def test_a_state(self) -> None:
        """A layer that counts its calls and changes its ways: compared once in vain, it has been called once more."""

        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
                self.calls = 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return self.other(self.linear(x)) * self.calls

        class Counters(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for layer in self.layers:
                    layer.calls = int(layer is self.layers[2])
                return super().forward(x)

        model = Counters(plain)
        model.layers = nn.ModuleList(Counting() for _ in range(4))
        assert_same(model, BATCH)


class TestResults:
    @pytest.mark.parametrize(
        ("give", "take"),
        [
            (lambda x: (x, None), lambda out: out[0]),
            (lambda x: (x, x.relu()), lambda out: out[0] * out[1]),
            (lambda x: [x, 3], lambda out: out[0] * out[1]),
            (lambda x: {"x": x, "flag": True}, lambda out: out["x"]),
            (lambda x: (x, (x.exp(), x)), lambda out: out[0] + out[1][0] + out[1][1]),
            (lambda x: x.max(-1, keepdim=True), lambda out: out.values.repeat(1, 8)),
        ],
    )
    def test_of_many_forms(self, copies: list[str], give: Any, take: Any) -> None:
        class Forms(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                for layer in self.layers:
                    x = take(layer(x))
                return x.sum()

        assert_same(Forms(lambda x, layer: give(x)), BATCH)
        assert copies == ["layers.1", "layers.2", "layers.3"]

    def test_arguments_from_outside(self, copies: list[str]) -> None:
        """Masks that differ from layer to layer, one handed back untouched, and an argument that is None."""

        def add(x: torch.Tensor, layer: Layer, mask: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
            return x.masked_fill(mask, 0.0), mask, bias

        class Masked(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x, place = self.enter(x), torch.arange(8, device=x.device)
                masks = (place > 3, place > 5)
                for number, layer in enumerate(self.layers):
                    x, mask, _ = layer(x, mask=masks[number % 2], bias=None)
                    x = x * mask
                return x.sum()

        assert_same(Masked(add), BATCH)
        assert copies == ["layers.1", "layers.2", "layers.3"]

    def test_a_result_in_another_layout(self, copies: list[str]) -> None:
        """Whether `contiguous` copies depends on the strides of what a layer gives."""

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            return torch.stack([x, x], dim=1).transpose(0, 1).contiguous().transpose(0, 1)[:, 0]

        assert_same(Stack(add), BATCH)


def test_towers_that_look_alike(copies: list[str]) -> None:
    """Two towers of many layers: the layers are the better unit."""

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Stack(plain, count=8), Stack(plain, count=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(x) + self.right(x)

    assert_same(Towers(), BATCH)
    assert len(copies) == 15


def test_an_error_is_that_of_the_whole_trace() -> None:
    def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
        if x.sum() > 0:
            x = -x
        return x

    texts = []
    for every_layer in (False, True):
        with pytest.raises(Exception, match="Stack cannot be captured") as caught:
            capture(Stack(add), (BATCH,), every_layer=every_layer)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]

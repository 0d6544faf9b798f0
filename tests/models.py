"""The models of the equality matrix: each with a batch and a loss, small enough for eight processes on two cores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.plain_models import Codebooks, Perceiver, Recurrent

SAMPLES = 8
SEQUENCE = 12
VOCABULARY = 32


@dataclass(frozen=True)
class Case:
    """A model, its batch, its loss and the rules of its own ops.

    `drops` says that the model computes its loss in float32 whatever its dtype.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[torch.dtype], Any]
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    drops: bool = False
    rules: Mapping[str, str] | None = None


def gpt() -> nn.Module:
    """The plain GPT of the examples: fused qkv, tied head."""
    from gpt import GPT, GPTConfig

    return GPT(GPTConfig(vocab_size=VOCABULARY, context=SEQUENCE, layers=4, hidden=32, heads=4))


def gpt2() -> nn.Module:
    """Hugging Face GPT-2: `Conv1D` with a fused qkv, tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=SEQUENCE, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, loss_type="ForCausalLM",
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama() -> nn.Module:
    """Hugging Face Llama: grouped-query attention, rotary positions, head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=SEQUENCE, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class ResidualMLP(nn.Module):
    """Layers of one width, each added to what enters it, and a skip from the first to the last."""

    def __init__(self, width: int = 16, layers: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(8, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.leave = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> (batch, 4)."""
        first = x = self.enter(x)
        for layer in self.layers:
            x = x + layer(x)
        result: torch.Tensor = self.leave(x + first)
        return result


class ConvNet(nn.Module):
    """Convolutions with group norms, pooling, a skip connection and a linear head."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(2, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(2, channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.head = nn.Linear(2 * channels, 4)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """image: (batch, 3, 8, 8), label: (batch,) -> mean loss."""
        x = F.relu(self.norm1(self.stem(image)))
        x = x + F.relu(self.norm2(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x)).mean(dim=(2, 3))
        return F.cross_entropy(self.head(x), label)


def _tokens(dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """Tokens, with labels of which uneven numbers are masked, in some samples nearly all."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, SEQUENCE), generator=generator)
    labels = torch.randint(0, VOCABULARY, (SAMPLES, SEQUENCE), generator=generator)
    for sample in range(SAMPLES):
        labels[sample, : sample * SEQUENCE // SAMPLES] = -100
    return {"input_ids": tokens, "labels": labels}


def _codes(dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """Two rows of tokens a sample, with labels as uneven."""
    tokens = _tokens(dtype)
    codes = torch.stack([tokens["input_ids"], tokens["input_ids"].flip(1)], 1)
    return {"codes": codes.flatten(0, 1), "labels": torch.stack([tokens["labels"], tokens["labels"].flip(1)], 2)}


def _token_pair(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(_tokens(dtype).values())


def _vectors(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return (torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype),)


def _images(dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(SAMPLES, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return {"image": image, "label": torch.randint(0, 4, (SAMPLES,), generator=generator)}


def _squared_to_ones(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return F.mse_loss(output, torch.ones_like(output))


CASES: Mapping[str, Case] = {
    "gpt": Case(gpt, _token_pair),
    "gpt2": Case(gpt2, _tokens, drops=True),
    "llama": Case(llama, _tokens, drops=True),
    "residual_mlp": Case(ResidualMLP, _vectors, _squared_to_ones),
    "conv_net": Case(ConvNet, _images),
}


def _padded(dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    batch = dict(_tokens(dtype))
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    for sample in range(SAMPLES):
        batch["attention_mask"][sample, : sample % 4] = 0
    return batch


def bert() -> nn.Module:
    """An encoder with a masked-token loss and a head tied to the embedding."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=SEQUENCE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForMaskedLM(config)


def t5() -> nn.Module:
    """An encoder and a decoder: what the encoder gives is used by every layer of the decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def phi3() -> nn.Module:
    """A fused projection to queries, keys and values of unequal widths, cut by slices; fused gates, cut by `chunk`."""
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=SEQUENCE, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return Phi3ForCausalLM(config)


class UNet(nn.Module):
    """Down and up again, with skips that cross several stages of a pipeline."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 3, padding=1) for i in range(2))
        self.up = nn.ModuleList(nn.Conv2d(width * 2 ** (i + 1) * 3 // 2, width * 2**i, 3, padding=1) for i in range(2))
        self.leave = nn.Conv2d(width, 3, 1)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """image: (batch, 3, 8, 8); the loss is how far the result is from the image."""
        x, skips = F.relu(self.enter(image)), []
        for layer in self.down:
            skips.append(x)
            x = F.relu(layer(F.max_pool2d(x, 2)))
        for layer, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = F.relu(layer(torch.cat([x.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], dim=1)))
        return {"loss": F.l1_loss(self.leave(x), image), "classes": label}


MORE_CASES: Mapping[str, Case] = {
    "llama_padded": Case(llama, _padded, drops=True),
    "phi3": Case(phi3, _tokens, drops=True),
    "bert": Case(bert, _padded, drops=False),
    "t5": Case(t5, _padded, drops=False),
    "u_net": Case(UNet, _images),
    "perceiver": Case(Perceiver, _tokens),
    "recurrent": Case(Recurrent, _tokens),
    "codebooks": Case(Codebooks, _codes),
}


class GatedMLP(nn.Module):
    """Layers that call an operator of the user's own."""

    def __init__(self, width: int = 16, layers: int = 4) -> None:
        super().__init__()
        import tests.custom_ops  # noqa: F401 - registers the operator, on every rank

        self.enter = nn.Linear(8, width)
        self.layers = nn.ModuleList(GatedLayer(width, 4 * width) for _ in range(layers))
        self.leave = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> (batch, 4)."""
        x = self.enter(x)
        for layer in self.layers:
            x = x + layer(x)
        result: torch.Tensor = self.leave(x)
        return result


class GatedLayer(nn.Module):
    """Two projections, the one gating the other, and one back."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.by = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.scale = nn.Parameter(torch.rand(hidden))
        self.down = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, width) -> (batch, width)."""
        result: torch.Tensor = self.down(torch.ops.autopart_tests.gate(self.up(x), self.by(x), self.scale))
        return result


def mixtral() -> nn.Module:
    """Hugging Face Mixtral: every token goes to two of four experts, and comes back."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=SEQUENCE, num_local_experts=4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def qwen3_moe() -> nn.Module:
    """Hugging Face Qwen3-MoE: more experts, smaller ones; of all its sizes, three ranks can share only their number."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=SEQUENCE, num_experts=6,
        num_experts_per_tok=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config)


# Transformers multiplies with experts in float32 or less: its op has no float64.
EXPERT_CASES: Mapping[str, Case] = {
    "mixtral": Case(mixtral, _tokens, drops=True),
    "qwen3_moe": Case(qwen3_moe, _tokens, drops=True),
}
GATE = "autopart_tests.gate.default"
OPERATOR_CASES: Mapping[str, Case] = {
    "gated_mlp": Case(GatedMLP, _vectors, _squared_to_ones),
    "gated_mlp_ruled": Case(GatedMLP, _vectors, _squared_to_ones, rules={GATE: "b* a, b* a, a -> b* a"}),
}


def case(name: str) -> Case:
    """The case called `name`."""
    return {**CASES, **MORE_CASES, **EXPERT_CASES, **OPERATOR_CASES}[name]


def build(name: str, dtype: torch.dtype) -> nn.Module:
    """The model `name` with the same weights every time."""
    torch.manual_seed(0)
    return case(name).build().to(dtype).train()

"""Small models that capture, folding, search and estimates are tested on."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.captured import Captured
from autopart.capture.example_inputs import example_inputs
from autopart.capture.torch_export import capture
from autopart.ir.graph import Graph


def tiny_llama(device: str = "meta", layers: int = 2, **sizes: Any) -> nn.Module:
    """A Hugging Face Llama with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0, "num_hidden_layers": layers,
    }  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**{**settings, **sizes}))


def tiny_gpt2(device: str = "meta", layers: int = 2, dropout: float = 0.0) -> nn.Module:
    """A Hugging Face GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, loss_type="ForCausalLM",
    )  # fmt: skip
    with torch.device(device):
        return GPT2LMHeadModel(config)


def tiny_gpt(device: str = "meta", layers: int = 4, hidden: int = 32, vocab: int = 64, context: int = 16) -> nn.Module:
    """The plain GPT of the examples."""
    from gpt import GPT, GPTConfig

    with torch.device(device):
        return GPT(GPTConfig(vocab_size=vocab, context=context, layers=layers, heads=4, hidden=hidden))


class Asserting(nn.Linear):
    """Checks of values and of sizes. Not in a file of tests, where pytest rewrites assertions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert (x >= 0).all(), "no negative numbers"
        assert x.shape[1] == 8
        return super().forward(x)


def token_batch(sequence: int = 16, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels on `meta`."""
    tokens = torch.empty(batch, sequence, dtype=torch.long, device="meta")
    return tokens, torch.empty_like(tokens)


def captured(model: nn.Module, inputs: object | None = None, loss: Any = None) -> Captured:
    """Capture as `plan` does."""
    return capture(model, example_inputs(model, inputs), loss)


def graph_of(model: nn.Module, inputs: object | None = None, loss: Any = None) -> Graph:
    """The graph alone."""
    return captured(model, inputs, loss).graph


def ops(graph: Graph) -> list[str]:
    """The short names of all ops."""
    return [node.op.split(".")[1] for node in graph.nodes]


class AttendingLayer(nn.Module):
    """Attention written out, with dropout of its scores, and a product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out, self.up = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, sequence, width) -> the same."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        attention = F.dropout(scores, 0.2, self.training) @ v
        x = x + self.out(attention.transpose(1, 2).flatten(-2))
        return x + F.dropout(torch.tanh(self.up(x)), 0.1, self.training)


class Attending(nn.Module):
    """Equal layers, behind one that gives all of them gradients to pass on."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.layers = nn.ModuleList(AttendingLayer(width, heads) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, sequence, width) -> mean square."""
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()

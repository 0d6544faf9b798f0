"""A decoder-only transformer written plainly: the models of the published runs, on `meta`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model, and which family's layers it has: "gpt", "llama" or "nemotron".

    GPT has learned positions, layer norms, biases and GELU; Llama rotary positions, RMS norms, a gated MLP and its own
    head; Nemotron rotary positions, layer norms, no biases, squared ReLU and its own head. `fused` makes one product of
    q, k and v, and one of the two halves of a gated MLP. `dropout` is the probability in GPT's embedding, attention and
    residuals; `biases` gives GPT's linear layers and norms theirs; `learned_positions` its position embedding.
    """

    family: str
    layers: int
    hidden: int
    ffn_hidden: int
    heads: int
    kv_heads: int
    vocab: int
    seq_len: int
    dropout: float = 0.0
    biases: bool = True
    learned_positions: bool = True
    fused: bool = True
    complex_rotary: bool = False


class Attention(nn.Module):
    """Causal self-attention with `heads` query and `kv_heads` key and value heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.size = shape.hidden // shape.heads
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.dropout = shape.dropout
        widths = [self.size * shape.heads, self.size * shape.kv_heads, self.size * shape.kv_heads]
        bias = shape.family == "gpt" and shape.biases
        self.widths = widths
        if shape.fused:
            self.qkv = nn.Linear(shape.hidden, sum(widths), bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(shape.hidden, width, bias=bias) for width in widths)
        self.fused = shape.fused
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=bias)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).split(self.widths, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q = q.view(batch, length, self.heads, self.size).transpose(1, 2)
        k = k.view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        v = v.view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): halves of a head turned against each other, or pairs as complex numbers."""
    if cos.is_complex():
        turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * cos
        return torch.view_as_real(turned).flatten(-2).type_as(x)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Mlp(nn.Module):
    """GELU, squared ReLU, or gated SiLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.family, self.fused = shape.family, shape.fused
        bias = shape.family == "gpt" and shape.biases
        gated = shape.family == "llama"
        if gated and not shape.fused:
            self.gate = nn.Linear(shape.hidden, shape.ffn_hidden, bias=bias)
        self.up = nn.Linear(shape.hidden, shape.ffn_hidden * (2 if gated and shape.fused else 1), bias=bias)
        self.down = nn.Linear(shape.ffn_hidden, shape.hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.family == "gpt":
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        if self.family == "nemotron":
            return self.down(F.relu(self.up(x)).square())
        gate, up = self.up(x).chunk(2, -1) if self.fused else (self.gate(x), self.up(x))
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(shape), norm(shape)
        self.attention, self.mlp = Attention(shape), Mlp(shape)
        self.dropout = shape.dropout

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self._drop(self.attention(self.norm1(x), rotary))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, True) if self.dropout else x


def norm(shape: Shape) -> nn.Module:
    """RMS norm for Llama, layer norm for the others."""
    if shape.family == "llama":
        return nn.RMSNorm(shape.hidden)
    return nn.LayerNorm(shape.hidden, bias=shape.biases)


class Transformer(nn.Module):
    """Tokens in, the mean cross-entropy of the next tokens out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocab, shape.hidden)
        if shape.family == "gpt" and shape.learned_positions:
            self.positions = nn.Embedding(shape.seq_len, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = norm(shape)
        self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if shape.family == "gpt":
            self.head.weight = self.tokens.weight
        else:
            size = shape.hidden // shape.heads
            dtype, size = (torch.complex64, size // 2) if shape.complex_rotary else (torch.get_default_dtype(), size)
            self.register_buffer("cos", torch.empty(shape.seq_len, size, dtype=dtype), persistent=False)
            self.register_buffer("sin", torch.empty(shape.seq_len, size, dtype=dtype), persistent=False)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.tokens(tokens)
        rotary = None
        if self.shape.family != "gpt":
            rotary = (self.cos, self.sin)
        elif self.shape.learned_positions:
            x = x + self.positions.weight
        if self.shape.dropout:
            x = F.dropout(x, self.shape.dropout, True)
        for block in self.blocks:
            x = block(x, rotary)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def build(shape: Shape, dtype: torch.dtype) -> tuple[Transformer, dict[str, Tensor]]:
    """The model on `meta` in `dtype`, and an example batch of two samples."""
    with torch.device("meta"):
        model = Transformer(shape)
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_complex():
                    module.register_buffer(name, buffer.to(dtype), persistent=False)
        tokens, labels = (torch.zeros(2, shape.seq_len, dtype=torch.long) for _ in range(2))
    return model, {"tokens": tokens, "labels": labels}

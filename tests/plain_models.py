"""Models as people write them who use torch alone: its own attention and recurrent modules, and buffers that change."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 32
CLASSES = 4


class Perceiver(nn.Module):
    """Learned latents look at a sequence with `nn.MultiheadAttention`, which puts the sequence before the batch."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.latents = nn.Parameter(torch.randn(6, width))
        self.looks = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """input_ids, labels: (batch, sequence) -> the loss of the first labels."""
        tokens = self.embed(input_ids)
        latents = self.latents.unsqueeze(0).repeat(tokens.size(0), 1, 1)
        for look, layer in zip(self.looks, self.layers, strict=True):
            latents = layer(latents + look(latents, tokens, tokens)[0])
        return F.cross_entropy(self.head(latents).flatten(0, 1), labels[:, :6].flatten())


class Recurrent(nn.Module):
    """A language model with LSTMs, sequence first, and a tied head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.lstms = nn.ModuleList(nn.LSTM(width, width) for _ in range(3))
        self.head = nn.Linear(width, VOCABULARY)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """input_ids, labels: (batch, sequence) -> the loss."""
        states = self.embed(input_ids).transpose(0, 1)
        for lstm in self.lstms:
            states, _ = lstm(states)
        return F.cross_entropy(self.head(states).reshape(-1, VOCABULARY), labels.transpose(0, 1).reshape(-1))


class Codebooks(nn.Module):
    """Codes of two codebooks, the rows of a sample one after the other, as sounds have them; labels lie by sample."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(VOCABULARY, width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.heads = nn.ModuleList(nn.Linear(width, VOCABULARY) for _ in range(2))

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """codes: (2 * batch, sequence), labels: (batch, sequence, 2) -> the loss."""
        books = codes.reshape(-1, 2, codes.shape[-1])
        x = sum(embed(books[:, number]) for number, embed in enumerate(self.embeds))
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        losses = [F.cross_entropy(head(x).flatten(0, 1), labels[..., n].flatten()) for n, head in enumerate(self.heads)]
        return sum(losses) / len(losses)


class Changing(nn.Module):
    """Buffers that a forward pass changes: in place without gradients, read before and after, on every stage."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.bounded = nn.utils.parametrizations.spectral_norm(nn.Linear(width, width))
        self.head = nn.Linear(width, CLASSES)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("queue", torch.randn(width, 12))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x: (batch, width), target: (batch,) -> the loss, against a queue of former outputs too."""
        self.steps += 1
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * torch.clamp(self.steps / 4, max=1.0)
        x[:, :2] *= 0.5
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            centre = x.mean(-1, keepdim=True)
        x = self.bounded(x - self.mean - centre)
        loss = F.cross_entropy(self.head(x), target) + (x @ self.queue.clone()).logsumexp(-1).mean()
        with torch.no_grad():
            self.queue.copy_(torch.cat([self.queue[:, 1:], x.mean(0)[:, None]], 1))
        return loss


class TwoOrders(nn.Module):
    """Rows with the sequence first are added to rows with the batch first: those of other samples, as people do."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, sequence, width) -> the loss."""
        rows = self.layer(x).transpose(0, 1).reshape(-1, x.shape[-1])
        return (rows * x.reshape(-1, x.shape[-1])).square().mean()

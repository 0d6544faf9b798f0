"""A diffusion U-Net: predicts the noise of a noisy image at a timestep (Ho et al., arXiv:2006.11239)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8


class ResidualBlock(nn.Module):
    """Two convolutions with a skip; the embedding of the timestep enters between them."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time = nn.Linear(embedding, channels)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (batch, channels_in, height, width), time: (batch, embedding) -> (batch, channels, height, width)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        result: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return result


class PixelAttention(nn.Module):
    """Self-attention among the pixels, with a skip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width) -> the same shape."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part.view(batch, height * width, self.heads, channels // self.heads).transpose(1, 2)
            for part in self.qkv(pixels).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)
        return x + self.proj(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class UNet(nn.Module):
    """Down, attention in the middle, and up again, each resolution with a skip from its way down."""

    def __init__(self, channels: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.channels = channels
        embedding = 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(3, channels, 3, padding=1)
        self.down1 = ResidualBlock(channels, channels, embedding)
        self.shrink = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(channels, 2 * channels, embedding)
        self.middle1 = ResidualBlock(2 * channels, 2 * channels, embedding)
        self.attention = PixelAttention(2 * channels, heads)
        self.middle2 = ResidualBlock(2 * channels, 2 * channels, embedding)
        self.up2 = ResidualBlock(4 * channels, channels, embedding)
        self.grow = nn.Conv2d(channels, channels, 3, padding=1)
        self.up1 = ResidualBlock(2 * channels, channels, embedding)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.leave = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, noisy: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """noisy, noise: (batch, 3, height, width), timestep: (batch,) -> mean squared error of the predicted noise."""
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=noisy.device) / half)
        angles = (timestep[:, None] * frequencies).to(noisy.dtype)
        time = self.time(torch.cat((angles.sin(), angles.cos()), dim=-1))
        first = self.down1(self.enter(noisy), time)
        second = self.down2(self.shrink(first), time)
        x = self.middle2(self.attention(self.middle1(second, time)), time)
        x = self.up2(torch.cat((x, second), dim=1), time)
        x = self.grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.up1(torch.cat((x, first), dim=1), time)
        return F.mse_loss(self.leave(F.silu(self.norm(x))), noise)

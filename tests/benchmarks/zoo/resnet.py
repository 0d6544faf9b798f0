"""A residual network which classifies images (He et al., arXiv:1512.03385)."""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions with a skip, projected where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels_in, height, width) -> (batch, channels, height / stride, width / stride)."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


class ResNet(nn.Module):
    """A stem, stages of two blocks each at doubling width and halving resolution, and a linear head."""

    def __init__(self, channels: int = 16, stages: int = 3, classes: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = []
        for stage in range(stages):
            width = channels << stage
            blocks.append(BasicBlock(width if stage == 0 else width // 2, width, stride=1 if stage == 0 else 2))
            blocks.append(BasicBlock(width, width, stride=1))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels << (stages - 1), classes)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """image: (batch, 3, height, width), label: (batch,) -> mean loss."""
        x = self.pool(F.relu(self.norm(self.stem(image))))
        x = F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1)
        return F.cross_entropy(self.head(x), label)

"""Captured: a graph and the tensors that it closes over."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autopart.ir.graph import Graph


@dataclass(frozen=True)
class Captured:
    """A graph and the tensors that it closes over, by their target names."""

    graph: Graph
    constants: Mapping[str, torch.Tensor]

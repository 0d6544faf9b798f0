"""Planners of `torch.distributed.checkpoint` for tensors of which every rank holds some rectangular parts.

DTensor cannot say that a rank holds its share of each of several unequal parts of a dim (a fused qkv), so the parts are
named here; what is written is the ordinary format, and plain torch reads it.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from autopart.runtime.held_tensor import Box, HeldTensor


class PieceSaver(DefaultSavePlanner):
    """Writes this rank's parts of held tensors, and plain values; what several ranks have is written by one of them.

    Args:
        items: gives what this rank has, by name. It is called inside of the save, so that its error reaches all ranks.
    """

    def __init__(self, items: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._items = items

    def create_local_plan(self) -> SavePlan:
        """One item for each part of a tensor, and one for each plain value."""
        self.state_dict = dict(self._items())
        self.plan = SavePlan([item for name, value in self.state_dict.items() for item in _writes(name, value)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor that holds a part, or the plain value."""
        value = self.state_dict[index.fqn]
        if isinstance(value, HeldTensor) and index.offset is not None:
            return value.box_at(index.offset).values.detach()
        return value


class PieceLoader(LoadPlanner):
    """Reads this rank's parts of held tensors into them, and plain values into `objects`.

    Args:
        items: says what is read, by name, given what the checkpoint has: held tensors, and None for plain values.
    """

    def __init__(self, items: Callable[[Metadata], Mapping[str, HeldTensor | None]]) -> None:
        self.objects: dict[str, Any] = {}
        self._wanted = items
        self._items: Mapping[str, HeldTensor | None] = {}

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take what the checkpoint says of itself."""
        if metadata is not None:
            self._metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        """One item for each overlap of a part that is stored with one that is wanted."""
        self._items = self._wanted(self._metadata)
        found: list[ReadItem] = []
        for name, held in self._items.items():
            stored = self._metadata.state_dict_metadata[name]
            if held is None or isinstance(stored, BytesStorageMetadata):
                found.append(_read_bytes(name))
            elif isinstance(stored, TensorStorageMetadata):
                found += create_read_items_for_chunk_list(name, stored, [_chunk(box) for box in held.boxes()])
        return LoadPlan(found)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Every rank reads what it planned."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Keep a plain value; nothing but plain values and tensors is unpickled."""
        self.objects[read_item.dest_index.fqn] = torch.load(value, weights_only=True)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The view that a stored part is copied into."""
        held, offset = self._items[read_item.dest_index.fqn], read_item.dest_index.offset
        if held is None or offset is None:
            raise ValueError(f"{read_item.dest_index.fqn} is read as a tensor, but is none")
        view = held.box_at(offset).values.detach()
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            view = view.narrow(dim, start, length)
        return view

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Nothing: what was read was copied into a view of the held tensor."""


def _writes(name: str, value: Any) -> list[WriteItem]:
    if not isinstance(value, HeldTensor):
        return [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO)]
    found = []
    for box in value.boxes():
        properties = TensorProperties.create_from_tensor(box.values)
        data = TensorWriteData(_chunk(box), properties, torch.Size(value.shape))
        found.append(WriteItem(MetadataIndex(name, torch.Size(box.offsets)), WriteItemType.SHARD, tensor_data=data))
    return found


def _chunk(box: Box) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(box.offsets), box.values.size())


def _read_bytes(name: str) -> ReadItem:
    nothing = torch.Size((0,))
    return ReadItem(LoadItemType.BYTE_IO, MetadataIndex(name), nothing, MetadataIndex(name), nothing, nothing)

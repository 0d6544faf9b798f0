"""CheckpointWriter: writes a checkpoint beside the one that a directory has, which it replaces when it is complete."""

import secrets
from dataclasses import replace
from pathlib import Path

from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult


class CheckpointWriter(FileSystemWriter):
    """Data in files of new names, and at the end, at once, the metadata that name them.

    torch writes over the files that are there. Where a save ends half way, their metadata would go on to name them, and
    read old weights for some parameters and new ones for others.

    Args:
        directory: where the checkpoint is; it is made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._directory = directory

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Make the directory; a checkpoint in it is no reason to warn."""
        self._directory.mkdir(parents=True, exist_ok=True)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name the files of all ranks."""
        token = secrets.token_hex(4)
        named = super().prepare_global_plan(plans)
        return [
            replace(p, storage_data=replace(p.storage_data, prefix=f"{p.storage_data.prefix}{token}_")) for p in named
        ]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Once everything is written: let the metadata name it, and remove what they no longer do."""
        super().finish(metadata, results)
        written = {result.storage_data.relative_path for own in results for result in own}
        for path in self._directory.glob(f"__*{DEFAULT_SUFFIX}"):
            if path.name not in written:
                path.unlink()

"""One capture for all ranks of a job, and for all jobs of the same model: in short jobs it takes most of the time.

Rank 0 captures a model and keeps what it found by all that the model is, its weights included; the others take that.
Left to themselves they would find the same, which is seen wherever this is not used: in the examples, for one.
"""

import hashlib
import io
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn

from autopart import api, prepared
from autopart.capture.captured import Captured
from autopart.capture.example_inputs import example_inputs
from autopart.capture.returned import Returned
from autopart.capture.torch_export import without_cache

capture = prepared.capture


def one_capture(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns on this rank; all ranks call it, and capture the same models in the same order."""
    with patch.object(prepared, "capture", _by_rank_0), patch.object(api, "capture", _by_rank_0):
        return function(*args)


def _by_rank_0(model: nn.Module, inputs: object | None = None, loss: Any = None, *further: Any) -> Captured:
    sent: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            sent = [_kept(model, inputs, loss, *further)]
        except Exception as error:
            sent = [error]
    dist.broadcast_object_list(sent, 0)
    if isinstance(sent[0], Exception):
        raise sent[0]
    if isinstance(loss, Returned):
        _see(model, inputs, loss)
    captured: Captured = pickle.loads(sent[0])
    return captured


def _kept(model: nn.Module, inputs: object | None, loss: Any, *further: Any) -> bytes:
    """The bytes of what was captured, from before where all was equal."""
    known = _known()
    text = io.BytesIO()
    _Contents(text).dump((model, inputs, type(loss) if isinstance(loss, Returned) else loss, further))
    key = hashlib.sha256(text.getvalue()).digest()
    if key not in known:
        known[key] = pickle.dumps(capture(model, inputs, loss, *further))
    return known[key]


class _Contents(pickle.Pickler):
    """Writes a tensor as its numbers and which of all tensors shares its memory; pickle writes where that lies."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._memory: dict[int, int] = {}

    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return None
        place = self._memory.setdefault(item.untyped_storage().data_ptr(), len(self._memory))
        what = (type(item).__name__, str(item.dtype), item.requires_grad, str(item.device), place)
        numbers = b"" if item.is_meta else item.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return (*what, tuple(item.shape), item.stride(), item.storage_offset(), numbers)


@cache
def _known() -> dict[bytes, bytes]:
    return {}


def _see(model: nn.Module, inputs: object | None, returned: Returned) -> None:
    """Show `returned` what the model returns, by running it on the inputs."""
    batch = example_inputs(model, inputs)
    with torch.no_grad(), without_cache(model):
        returned(model(**batch) if isinstance(batch, dict) else model(*batch), batch)

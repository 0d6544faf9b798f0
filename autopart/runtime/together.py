"""Together: what all ranks do, and what fails on all of them where it fails on one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from autopart.errors import AutopartError, CheckpointError


@contextmanager
def together(what: str) -> Iterator[None]:
    """All ranks leave this at the same time: with the first failing rank's error, if any fails.

    Ranks do nothing inside that needs another one, or go on with it to the end where they fail.

    Raises:
        AutopartError: what the first failing rank raised, on every rank; of other errors, a `CheckpointError`.
    """
    own: AutopartError | None = None
    cause: Exception | None = None
    try:
        yield
    except AutopartError as error:
        own = error
    except Exception as error:
        cause, own = error, CheckpointError(f"{what}: rank {dist.get_rank()}: {type(error).__name__}: {error}")
    errors: list[AutopartError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, own)
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        raise first from cause

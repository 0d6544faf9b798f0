"""seeded: random numbers of one seed, on one device, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random ops on the CPU and on `device` draw numbers that `seed` decides; afterwards all is as it was.

    `torch.manual_seed` would look for devices of all kinds, each time.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield

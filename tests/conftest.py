"""Options of the whole test suite."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from autopart.runtime import launch
from tests.worker_pool import PRELOADED, WorkerPool


def pytest_configure() -> None:
    """Captures make millions of objects that live on, which the collector would look through again and again.
    A test that takes long is no failure: other programs may have the cores. And the ranks of `autopart.run` are copies
    of the same process as the workers of the pool.
    """
    launch.PRELOADED = PRELOADED
    gc.set_threshold(100_000, 50, 100)
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write the snapshots anew instead of comparing")


@pytest.fixture
def check_snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """check_snapshot(name, text): `text` is what the file snapshots/`name`, beside the test, has."""

    def check(name: str, text: str) -> None:
        path: Path = request.path.parent / "snapshots" / name
        if request.config.getoption("--update-snapshots"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest with --update-snapshots, and read what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def worker_pool() -> Iterator[WorkerPool]:
    """Eight processes for all tests that need ranks; started by the first one that does."""
    pool = WorkerPool(8)
    yield pool
    pool.close()


@pytest.fixture
def filled_memory() -> Iterator[None]:
    """What no op writes, as in `empty_like`, is the same in every run."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)

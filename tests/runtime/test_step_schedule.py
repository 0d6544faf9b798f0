"""How the samples of a step are split."""

import pytest

from autopart.runtime.step_schedule import even_sizes, micro_batch_sizes


@pytest.mark.parametrize(
    ("samples", "micro_batch", "sizes"), [(8, 2, (2, 2, 2, 2)), (7, 2, (2, 2, 2, 1)), (2, 4, (2,)), (1, 1, (1,))]
)
def test_micro_batch_sizes(samples: int, micro_batch: int, sizes: tuple[int, ...]) -> None:
    assert micro_batch_sizes(samples, micro_batch) == sizes


@pytest.mark.parametrize(
    ("samples", "count", "sizes"), [(5, 4, (2, 1, 1, 1)), (7, 4, (2, 2, 2, 1)), (8, 4, (2, 2, 2, 2)), (1, 2, (1,))]
)
def test_even_sizes(samples: int, count: int, sizes: tuple[int, ...]) -> None:
    assert even_sizes(samples, count) == sizes

"""The benchmark of the runtime: which pairs count, the split made by hand, and where its table goes."""

from dataclasses import replace

import pytest
import torch

from tests.benchmarks.runtime_speed.__main__ import BEGIN, END, PAGE, replaced
from tests.benchmarks.runtime_speed.compare import Block, Compared
from tests.benchmarks.runtime_speed.gpt import SIZES, Stage, batch, build, mean_loss, shares
from tests.benchmarks.runtime_speed.rows import ROWS


def test_the_quiet_half_of_the_pairs_counts() -> None:
    pairs = [
        (Block(2.0, 1.0, 0.0), Block(1.0, 1.0, 0.1)),
        (Block(9.0, 1.0, 0.0), Block(1.0, 1.0, 0.9)),  # as when others came while the peer ran
        (Block(4.0, 3.0, 0.2), Block(2.0, 1.0, 0.0)),
        (Block(9.0, 1.0, 0.8), Block(1.0, 1.0, 0.0)),
    ]
    found = Compared(tuple(pairs), (30, 40))
    assert found.quiet == [pairs[0], pairs[2]]
    assert found.time_ratio == (2.0, 2.0, 2.0)
    assert (found.cpu_ratio, found.peak_ratio, found.others) == (2.0, 0.75, 0.2)
    assert (found.step_s(0), found.step_s(1)) == (3.0, 1.5)


@pytest.mark.parametrize("stages", [2, 4])
def test_the_split_made_by_hand_is_the_model(stages: int) -> None:
    size = replace(SIZES[1], layers=4)
    model = build(size)
    tokens, targets = batch(size)
    parts = [Stage(model, blocks) for blocks in shares(size, stages)]
    x = tokens
    for part in parts:
        x = part(x)
    torch.testing.assert_close(mean_loss(x, targets), model(tokens, targets))
    names = [name for part in parts for name, _ in part.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_the_table_replaces_the_one_before() -> None:
    once = replaced(PAGE.read_text(encoding="utf-8"), "table 1", "then")
    again = replaced(once, "table 2", "now")
    assert "table 2" in again and "table 1" not in again
    assert again.replace("table 2", "table 1").replace("now:", "then:") == once
    assert (again.count(BEGIN), again.count(END)) == (1, 1)


def test_every_row_divides_its_batch() -> None:
    """Torch's pipelines take whole rounds of micro-batches, and every stage has a share of the layers."""
    assert len({row.key for row in ROWS}) == len(ROWS)
    for size in SIZES:
        assert size.batch % size.micro_batch == 0
        assert all(
            size.batch // size.micro_batch % row.world == 0 and size.layers % (2 * row.world) == 0 for row in ROWS
        )

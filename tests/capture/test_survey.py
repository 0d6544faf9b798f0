"""The report on a model that cannot be captured: every place at once, and nothing beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autopart.capture.found_places import pattern, smallest
from autopart.capture.torch_export import capture
from autopart.errors import CaptureError, Place
from tests.capture.models import graph_of

BATCH = torch.empty(4, 8)


def line_of(mark: str) -> int:
    """The number of the one line of this file that ends with `mark`."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [index for index, line in enumerate(lines, 1) if line.endswith(mark)]
    return number


def places_of(model: nn.Module, batch: Any = BATCH) -> tuple[Place, ...]:
    with pytest.raises(CaptureError) as caught:
        graph_of(model, batch)
    assert caught.value.places
    for place in caught.value.places:
        assert all(text in str(caught.value) for text in (place.location, place.source, place.construct, place.advice))
    return caught.value.places


class Awkward(nn.Linear):
    """Reads tensors in every way that there is, and fixes the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # if
            x = -x
        else:
            print(end="")
            x = x * float(x.mean())  # float
        while (x > 3).any():  # while
            x = x - 1
        largest = x.max().item()  # item
        first = x[0].tolist()  # tolist
        array = torch.from_numpy(x.detach().numpy())  # numpy
        count = x.sum(-1).to(torch.int64)[0]
        row = self.weight[count]  # index
        chosen = x[x.sum(-1) > 0]  # mask
        places = x.nonzero()  # nonzero
        fixed = torch.zeros(4, 8) + x.new_zeros(8)
        self.last = x  # attribute
        result = super().forward(x) * largest + first[0] + array.sum() + row + chosen.sum() + places.sum()
        return result + fixed


class Fixed(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):  # bool
            x = -x
        return super().forward(x) + torch.zeros(4, 8)  # fixed


CONSTRUCTS = {
    "if": "data-dependent branch",
    "float": "float()",
    "while": "data-dependent branch",
    "item": ".item()",
    "tolist": ".tolist()",
    "numpy": ".numpy()",
    "index": "a tensor as an index",
    "mask": "indexing with a mask",
    "nonzero": "nonzero",
    "attribute": "side effect",
}


def test_all_places_at_once() -> None:
    found = {int(place.location.rpartition(":")[2]): place for place in places_of(Awkward(8, 8))}
    expected = {line_of(f"# {mark}"): construct for mark, construct in CONSTRUCTS.items()}
    assert found.keys() == expected.keys()
    for number, construct in expected.items():
        assert found[number].construct.startswith(construct)
        assert found[number].source.endswith(f"# {next(m for m in CONSTRUCTS if line_of(f'# {m}') == number)}")


def test_a_fixed_batch_beside_a_branch() -> None:
    found = [(int(place.location.rpartition(":")[2]), place.construct) for place in places_of(Fixed(8, 8))]
    assert [number for number, _ in found] == [line_of("# bool"), line_of("# fixed")]
    assert found[1][1].startswith("the batch size becomes the fixed number 4")


def test_layers_share_a_place_and_are_named_by_a_pattern() -> None:
    class Branching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    model = nn.Sequential(nn.Linear(8, 8), *(nn.Sequential(Branching(8, 8)) for _ in range(3)))
    with pytest.raises(CaptureError, match=r'keep_whole=\["\*\.0"\]') as caught:
        graph_of(model, BATCH)
    assert {place.module for place in caught.value.places} == {"*.0"}


def test_constants_may_be_read() -> None:
    class Constant(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * int(torch.tensor(2))

    assert graph_of(Constant(8, 8), BATCH).nodes


def test_a_weight_that_is_changed() -> None:
    class Clipping(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data.clamp_(-1.0, 1.0)  # clip
            return super().forward(x)

    (place,) = places_of(Clipping(8, 8))
    assert place.location.endswith(f":{line_of('# clip')}")
    assert place.construct.startswith("clamp_ on the .data of a weight")


def test_a_whole_number_that_is_read_is_not_taken_for_the_batch() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * lengths.max().item()  # scale

    (place,) = places_of(Scaled(8, 8), (BATCH, torch.ones(4, dtype=torch.long)))
    assert place.location.endswith(f":{line_of('# scale')}")


def test_conditions_of_torch_are_listed_too() -> None:
    class Conditional(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))  # first
            x = torch.cond(x.sum() > 1, torch.sin, torch.cos, (x,))  # second
            return super().forward(x)

    numbers = [int(place.location.rpartition(":")[2]) for place in places_of(Conditional(8, 8))]
    assert numbers == [line_of("# first"), line_of("# second")]


def test_what_fails_in_a_module_of_torch_that_no_line_calls_is_named_by_the_module() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)), (torch.zeros(2, 4),))
    text = str(caught.value)
    assert "1. in code of torch, in module 1, called by no line of the model" in text and '""' not in text
    assert "see whether the model runs on this batch at all" in text


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    places_of(Awkward(8, 8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["a.0.b"], "a.0.b"),
        (["a.0.b", "a.1.b"], "a.*.b"),
        (["a.0.b", "a.1.c"], "a"),
        (["a.0", "b.0"], ""),
        (["a.0", "a.0.b"], "a.0"),
    ],
)
def test_pattern(modules: list[str], expected: str) -> None:
    assert pattern(modules) == expected


def test_smallest() -> None:
    assert smallest(["a.*.b", "a.1.b", "a.2.b.c", "d", "a.*.bb"]) == ["a.*.b", "d", "a.*.bb"]
    assert smallest(["a", ""]) == []

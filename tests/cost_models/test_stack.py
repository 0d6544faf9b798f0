"""Stack files: all load, and what is said about bad ones."""

from pathlib import Path

import pytest

from cost_models.errors import CostModelFileError, UnknownCostModelError
from cost_models.precision import PRECISIONS, check_precision, computed_dtype, state
from cost_models.stack import load_stack, stack_names

FOLDER = Path(__file__).parents[2] / "cost_models/stacks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.toml")))
def test_stack_loads(name: str) -> None:
    stack = load_stack(name)
    assert stack.name == name
    assert name in stack_names()
    assert all(len(source) > 3 for _, source in stack.sources)
    assert stack.gradient_bytes in (2, 4)
    assert stack.reduced_bytes in (2, 4)


def test_unknown_stack() -> None:
    with pytest.raises(UnknownCostModelError, match="unknown stack 'jax'; known: alpa, autopart, "):
        load_stack("jax")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('attention = "flash"', 'attention = "magic"', "'attention' must be one of math, flash1, flash, cudnn"),
        ("blocking_sends = false", "blocking_sends = 1", "'blocking_sends' must be true or false"),
        ("contention = 1.0", "contention = 0.9", "'contention' must be a finite number of at least 1"),
        ("reduction_overlap = 0.875", "reduction_overlap = 1.5", "'reduction_overlap' must be .* at most 1"),
    ],
)
def test_malformed_stack(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (FOLDER / "autopart.toml").read_text()
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CostModelFileError, match=message):
        load_stack(path)


def test_precisions() -> None:
    for name in PRECISIONS:
        check_precision(name)
    assert computed_dtype("as-built", "float32") == "float32"
    assert computed_dtype("fp16-mixed", "float32") == "float16"
    with pytest.raises(UnknownCostModelError, match="unknown precision 'fp4'"):
        check_precision("fp4")
    stack = load_stack("autopart")
    assert state("bf16-mixed", "float32", "adamw", stack) == state("bf16-mixed", "bfloat16", "adamw", stack)

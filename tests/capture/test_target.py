"""Targets of the command line, good and bad."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autopart.capture.target import load_target
from autopart.errors import AutopartError, CaptureError, InputsError, UnknownNameError

CODE = """
import torch
from torch import nn
from neighbour import WIDTH

not_a_model = 3
instance = nn.Linear(2, 2)

def build():
    return nn.Linear(WIDTH, 8)

def huge():
    return nn.Linear(1_000_000, 1_000_000)

def with_batch():
    return nn.Linear(4, 8), {"input": torch.zeros(2, 4)}

def needs(config, size=3, *rest, **more):
    return nn.Linear(size, size)

def fails():
    return inner()

def inner():
    raise KeyError("no such layer")

def reads_values():
    return nn.Linear(int(torch.ones(()).item()), 8)

def leaves():
    raise SystemExit(1)

def needs_more():
    import not_installed

def returns_dict():
    return {}

def returns_three():
    return nn.Linear(4, 8), 1, 2

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
"""
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a user's files; what they change of the interpreter is undone."""
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(5, 5)\n")
    (package / "broken.py").write_text("import no_such_thing_at_all\n")
    (tmp_path / "neighbour.py").write_text("WIDTH = 16\n")
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "syntax.py").write_text("def build(:\n")
    (tmp_path / "import_fails.py").write_text("import torch\n\n1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("a_package", "neighbour") or name.startswith("autopart_target_"):
            del sys.modules[name]


def hf(folder: Path, **config: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return f"hf:{folder / 'config.json'}"


@pytest.mark.parametrize(
    ("target", "width"),
    [
        ("mine.py:build", 16),
        ("./mine.py:build", 16),
        ("mine:build", 16),
        ("a_package.parts:build", 5),
        ("mine.py:instance", 2),
    ],
)
def test_functions_and_models(folder: Path, target: str, width: int) -> None:
    model, batch = load_target(target)
    assert isinstance(model, nn.Linear)
    assert model.in_features == width
    assert batch is None


def test_absolute_path_and_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    model, _ = load_target(f"{folder / 'mine.py'}:Model")
    assert model.linear.weight.is_meta


def test_nothing_is_allocated(folder: Path) -> None:
    model, _ = load_target("mine.py:huge")
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_batch_comes_along(folder: Path) -> None:
    model, batch = load_target("mine.py:with_batch")
    assert isinstance(model, nn.Linear)
    assert isinstance(batch, dict)
    assert batch["input"].shape == (2, 4)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("", UnknownNameError, "target '' names no function: write file.py:function, package.module:function or hf:"),
        ("mine.py", UnknownNameError, "names no function: .*; mine.py has: build, huge, with_batch"),
        ("mine.py:", UnknownNameError, "names no function: .*; mine.py has: build"),
        ("mine.py:build()", UnknownNameError, "names no function"),
        ("no.py:build", UnknownNameError, "there is no file 'no.py' .seen from "),
        ("no-module:build", UnknownNameError, "'no-module' is not the name of a Python module"),
        ("no_such_package.sub:build", UnknownNameError, "there is no module 'no_such_package' in "),
        ("a_package.sub:build", UnknownNameError, "there is no module 'a_package.sub' in "),
        (
            "a_package.broken:build",
            CaptureError,
            r"broken.py:1: ModuleNotFoundError: No module named 'no_such_thing_at_all'",
        ),
        ("mine.py:bild", UnknownNameError, "mine.py has no function 'bild'; it has: build, huge, .*, Model"),
        ("syntax.py:build", CaptureError, r"importing .*syntax.py failed at .*syntax.py:1: SyntaxError"),
        ("import_fails.py:build", CaptureError, r"failed at .*import_fails.py:3: ZeroDivisionError"),
        ("leaves.py:build", CaptureError, r"failed at .*leaves.py:2: SystemExit: 3"),
        ("mine.py:not_a_model", CaptureError, "is of type int, not a function that returns a model"),
        ("mine.py:needs", CaptureError, "is called without arguments, but needs config: give them defaults"),
        ("mine.py:fails", CaptureError, r"calling mine.py:fails failed at .*mine.py:25: KeyError: 'no such layer'"),
        ("mine.py:reads_values", CaptureError, r"failed at .*mine.py:28: .*It runs under torch.device.'meta'."),
        ("mine.py:needs_more", CaptureError, r"No module named 'not_installed'$"),
        ("mine.py:leaves", CaptureError, r"mine.py:31: SystemExit: 1"),
        ("mine.py:returns_dict", CaptureError, "returned a dict: return a torch.nn.Module, or"),
        ("mine.py:returns_three", CaptureError, "returned .Linear, int, int.: return"),
    ],
)
def test_bad_targets(folder: Path, target: str, error: type[AutopartError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_target(target)
    assert type(caught.value) is error


def test_sequence_length_is_for_hf_only(folder: Path) -> None:
    with pytest.raises(InputsError, match="a sequence length is only for hf: targets"):
        load_target("mine.py:build", 128)


class TestHuggingFace:
    """`hf:` targets."""

    @pytest.fixture(autouse=True)
    def _needs_transformers(self) -> None:
        pytest.importorskip("transformers")

    def test_a_file_and_its_folder(self, folder: Path) -> None:
        target = hf(folder, **LLAMA, dtype="bfloat16")
        for place in (target, f"hf:{folder}", "hf:config.json", "hf:."):
            model, batch = load_target(place)
            assert type(model).__name__ == "LlamaForCausalLM"
            assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
            assert all(parameter.is_meta for parameter in model.parameters())
            assert batch is None

    def test_without_a_dtype_it_is_that_of_torch(self, folder: Path) -> None:
        model, _ = load_target(hf(folder, **LLAMA))
        assert next(model.parameters()).dtype == torch.float32

    def test_sequence_length_makes_a_batch(self, folder: Path) -> None:
        _, batch = load_target(hf(folder, **LLAMA), 96)
        assert isinstance(batch, dict)
        assert {name: (tensor.shape, tensor.is_meta) for name, tensor in batch.items()} == {
            "input_ids": ((2, 96), True),
            "labels": ((2, 96), True),
        }

    def test_the_class_that_the_config_names(self, folder: Path) -> None:
        bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        for named, built in (("BertForMaskedLM", "BertForMaskedLM"), ("OfMyOwn", "BertLMHeadModel")):
            model, batch = load_target(hf(folder, **bert, architectures=[named]), 24)
            assert type(model).__name__ == built
            assert isinstance(batch, dict)
            assert batch["input_ids"].shape == batch["labels"].shape == (2, 24)

    def test_a_bare_model(self, folder: Path) -> None:
        target = hf(
            folder, model_type="vit", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
        )
        with pytest.warns(
            UserWarning, match=r"this plans ViTModel, a bare model that returns no loss. .*architectures"
        ):
            model, _ = load_target(target)
        assert type(model).__name__ == "ViTModel"
        with (
            pytest.warns(UserWarning),
            pytest.raises(InputsError, match="length of 8 was given, but ViTModel takes no"),
        ):
            load_target(target, 8)

    @pytest.mark.parametrize("place", ["", "no/such/folder", "a_package"])
    def test_nothing_there(self, folder: Path, place: str) -> None:
        with pytest.raises(UnknownNameError, match=f"target 'hf:{place}': there is no file .*; nothing is downloaded"):
            load_target(f"hf:{place}")

    @pytest.mark.parametrize(
        "text", ["{", "{}", '{"model_type": "nope"}', '{"model_type": "llama", "hidden_size": "wide"}']
    )
    def test_bad_config(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(CaptureError, match=r"transformers cannot make a model from .*config.json: "):
            load_target("hf:config.json")

    def test_code_beside_the_config_is_not_run(self, folder: Path) -> None:
        (folder / "evil.py").write_text("raise SystemExit('run')\n")
        (folder / "config.json").write_text(
            json.dumps(
                {
                    "model_type": "unheard_of",
                    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
                }
            )
        )
        with pytest.raises(CaptureError, match="transformers cannot make a model"):
            load_target("hf:config.json")

    def test_without_transformers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(CaptureError, match=r"hf: targets need transformers: pip install 'autopart\[hf\]'"):
            load_target(hf(folder, **LLAMA))

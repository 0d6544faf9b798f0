"""The command line."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import cost_models.cluster
from autopart import api
from autopart.cli import main
from autopart.errors import InfeasiblePlanError
from autopart.ir.plan_json import plan_to_json
from autopart.report.load import load_plan
from cost_models.errors import CostModelFileError
from tests.example_plans import image_plan, token_plan

TINY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

def with_batch():
    return build(), torch.zeros(4, 16)
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a small model."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return str(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What api.plan is called with; it answers with a plan made by hand."""
    calls: dict[str, Any] = {}

    def plan(model: nn.Module, **keywords: Any) -> object:
        calls.update(keywords, model=model)
        return token_plan()

    monkeypatch.setattr(api, "plan", plan)
    return calls


def test_plan_prints_the_table(tiny: str, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{tiny}:build", "--world", "64"]) == 0
    assert capsys.readouterr().out == f"{token_plan()}\n"
    model = asked.pop("model")
    assert isinstance(model, nn.Sequential)
    assert asked.pop("world") == 64
    assert asked.pop("strict") is False
    assert set(asked.values()) == {None}


def test_plan_passes_everything_on(tiny: str, asked: dict[str, Any]) -> None:
    flags = "--world 16 --cluster dgx-a100 --global-batch 32 --tp 2 --pp 4 --dp 2 "
    flags += "--stack megatron-core --precision bf16-mixed --cp 1 --zero 1 --virtual-stages 2 "
    flags += "--front-end fx_trace --micro-batch 1 --recompute full --schedule gpipe --no-sequence-parallel"
    flags += " --search-seconds 2 --memory-limit 40 --strict --placement a.*.weight=S(0) --placement b.weight=R"
    assert main(["plan", f"{tiny}:with_batch", *flags.split(), "--cuts", "a.1, a.2,b", "--keep-whole", "a.*.c"]) == 0
    assert asked.pop("inputs").shape == (4, 16)
    del asked["model"]
    assert asked == {
        "world": 16,
        "cluster": "dgx-a100",
        "global_batch": 32,
        "front_end": "fx_trace",
        "stack": "megatron-core",
        "precision": "bf16-mixed",
        "cp": 1,
        "zero": 1,
        "virtual_stages": 2,
        "tp": 2,
        "pp": 4,
        "dp": 2,
        "micro_batch": 1,
        "recompute": "full",
        "schedule": "gpipe",
        "cuts": ("a.1", "a.2", "b"),
        "sequence_parallel": False,
        "keep_whole": ("a.*.c",),
        "search_seconds": 2.0,
        "memory_limit_bytes": 40 * 2**30,
        "strict": True,
        "placements": {"a.*.weight": "S(0)", "b.weight": "R"},
    }


def test_plan_keeps_modules_whole_by_itself(tiny: str, asked: dict[str, Any]) -> None:
    assert main(["plan", f"{tiny}:build", "--world", "64", "--keep-whole", "auto"]) == 0
    assert asked["keep_whole"] == "auto"


def test_plan_as_json_and_saved(
    tiny: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert main(["plan", f"{tiny}:build", "--world", "64", "--json", "--save", str(path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(plan_to_json(token_plan())))
    assert err == f"saved {path}\n"
    assert load_plan(path) == token_plan()


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    image_plan().save(path)
    assert main(["show", str(path)]) == 0
    assert capsys.readouterr().out == f"{image_plan()}\n"


def test_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    token_plan().save(path)
    assert main(["why", str(path)]) == 0
    assert capsys.readouterr().out == f"{token_plan().explain()}\n"


def test_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, picture = tmp_path / "plan.json", tmp_path / "step.svg"
    token_plan().save(plan)
    assert main(["timeline", str(plan), "--output", str(picture), "--micro-batches", "8"]) == 0
    assert capsys.readouterr().out == f"saved {picture}\n"
    assert "8 micro-batches" in picture.read_text()
    assert main(["timeline", str(plan), "--output", str(tmp_path / "step.txt")]) == 2
    assert "end its name in .svg, .png, .json" in capsys.readouterr().err


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    token_plan().save(first)
    replace(token_plan(), micro_batch=2).save(second)
    assert main(["diff", first, second]) == 0
    assert re.search(r"^micro-batch +1 +2$", capsys.readouterr().out, re.MULTILINE)
    assert main(["diff", first, "missing.json"]) == 2


def test_sweep(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "sweep.svg"
    target = f"{tiny}:with_batch"
    argv = ["sweep", target, "--world", "1,2,7", "--cluster", "dgx-h100,dgx-a100", "--global-batch", "8"]
    assert main([*argv, "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("dgx") and "," not in line] == [
        ["dgx-h100", "1"],
        ["dgx-h100", "2"],
        ["dgx-a100", "1"],
        ["dgx-a100", "2"],
    ]
    assert [line[:20] for line in lines[-2:]] == ["dgx-h100, 7 devices:", "dgx-a100, 7 devices:"]
    assert picture.stat().st_size > 1000
    assert main([*argv, "--tp", "2", "--precision", "bf16-mixed"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^dgx-a100 +2 +2 × 1 × 1", out, re.MULTILINE) and "1 devices: tp=2 does not divide world=1" in out
    assert main([*argv, "--price", "2"]) == 2
    assert "--price needs --tokens" in capsys.readouterr().err


def test_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters"]) == 0
    assert "dgx-h100" in capsys.readouterr().out


def test_errors_are_one_message_without_a_traceback(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def infeasible(*_: object, **__: object) -> None:
        raise InfeasiblePlanError("stage 0 needs 90 GiB of 79.2: set recompute='full'")

    monkeypatch.setattr(api, "plan", infeasible)
    assert main(["plan", f"{tiny}:build", "--world", "8"]) == 2
    assert capsys.readouterr() == ("", "error: stage 0 needs 90 GiB of 79.2: set recompute='full'\n")


def test_a_plan_that_cannot_be_saved(tiny: str, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{tiny}:build", "--world", "8", "--save", "/no/such/folder/plan.json"]) == 2
    assert "error: the plan cannot be saved as /no/such/folder/plan.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "none.json"], "error: there is no plan file 'none.json'"),
        (["plan", "none.py:build", "--world", "8"], "error: target 'none.py:build': there is no file 'none.py'"),
        (["plan", "hf:none", "--world", "8"], "error: target 'hf:none': there is no file 'none'"),
        (
            ["plan", "x.py:build", "--world", "8", "--sequence-length", "3"],
            "error: a sequence length is only for hf: targets",
        ),
    ],
)
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_damaged_cluster_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def damaged(*_: object) -> None:
        raise CostModelFileError("dgx-h100.toml: 'device' is missing")

    monkeypatch.setattr(cost_models.cluster, "load_cluster", damaged)
    monkeypatch.delitem(sys.modules, "autopart.report.clusters", raising=False)
    assert main(["clusters"]) == 2
    assert capsys.readouterr().err == "error: dgx-h100.toml: 'device' is missing\n"
    monkeypatch.delitem(sys.modules, "autopart.report.clusters")


def test_warnings_are_told_in_a_line(
    tiny: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "warns.py"
    path.write_text(f"import warnings\nwarnings.warn('mind the step')\n{TINY}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["plan", f"{path}:build", "--world", "8"]) == 0
    assert capsys.readouterr().err == "warning: mind the step\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["plan", "x.py:f"], "--world"),
        (["plan", "x.py:f", "--world", "0"], "'0' is not a whole number above 0"),
        (["plan", "x.py:f", "--world", "many"], "'many' is not a whole number above 0"),
        (["plan", "x.py:f", "--world", "8", "--cuts", "a,,b"], "'a,,b' is not a list of module names"),
        (["plan", "x.py:f", "--world", "8", "--placement", "a.weight"], "'a.weight' is not NAME=PLACEMENT"),
        (["plan", "x.py:f", "--world", "8", "--zero", "4"], "invalid choice: 4"),
    ],
)
def test_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_tells_what_a_target_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    out = capsys.readouterr().out
    assert "hf:DIRECTORY-OR-CONFIG" in out
    assert "--cuts A,B" in out


@pytest.mark.parametrize("argv", [["show", "plan.json"], ["diff", "plan.json", "plan.json"], ["clusters"]])
def test_torch_is_not_imported_for_what_needs_no_model(argv: list[str], tmp_path: Path) -> None:
    token_plan().save(tmp_path / "plan.json")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from autopart.cli import main\n"
    code += f"code = main({argv!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autopart", "show", "none.json"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr[:28]) == (2, "error: there is no plan file")


def test_from_a_file_to_a_saved_plan(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    argv = [
        "plan",
        f"{tiny}:build",
        "--world",
        "4",
        "--cluster",
        "dgx-h100",
        "--global-batch",
        "32",
        "--tp",
        "2",
        "--save",
        str(path),
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Sequential, 1072 parameters, float32, on dgx-h100: 4 h100-sxm-80gb in one node\n")
    plan = load_plan(path)
    assert (plan.world, plan.tp, plan.global_batch) == (4, 2, 32)
    assert main(["show", str(path)]) == 0
    assert capsys.readouterr().out == printed


def test_hugging_face_config_to_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16", **sizes}))
    assert (
        main(["plan", f"hf:{tmp_path}", "--world", "4", "--pp", "2", "--sequence-length", "64", "--global-batch", "16"])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.startswith("LlamaForCausalLM, ")
    assert "of 64 tokens = 1024 tokens" in printed


def test_json_of_a_plan_is_the_saved_file(
    tiny: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    token_plan().save(path)
    assert main(["plan", f"{tiny}:build", "--world", "64", "--json"]) == 0
    assert capsys.readouterr().out == path.read_text()

"""The examples run as the README says, each in the two ways it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = str(EXAMPLES / "train_gpt.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("launcher", [[sys.executable], TORCHRUN], ids=["python", "torchrun"])
def test_train_gpt(launcher: list[str], tmp_path: Path) -> None:
    printed = _run([*launcher, TRAIN], tmp_path)
    assert re.search(r"tp 2 . pp 2 . dp 1", printed)
    rows = [line.split() for line in printed.splitlines() if re.match(r"\s+\d+ +\d\.\d+ +\d\.\d+ +[+-]", line)]
    losses = [float(row[1]) for row in rows]
    assert len(losses) > 5 and losses[-1] < losses[0] - 1
    for _, parallel, single, difference in rows:
        assert parallel == single and abs(float(difference)) < 1e-9
    emitted = sorted((tmp_path / "emitted").rglob("*.py"))
    assert [path.name for path in emitted] == re.findall(r"stage_\d+\.py", printed)
    assert len(emitted) > 1


def test_finetune_llama_ends_as_transformers_has_it(tmp_path: Path) -> None:
    printed = _run([sys.executable, str(EXAMPLES / "finetune_llama.py")], tmp_path)
    parts = [[float(x) for x in row] for row in re.findall(r"loss (\S+) \.\. (\S+), evaluated (\S+)", printed)]
    (first, middle, _), (again, last, evaluated) = parts
    assert first - 1 > middle > last and abs(again - middle) < 0.3, "the second layout goes on where the first ended"
    assert abs(float(re.search(r"from what was saved: (\S+)", printed)[1]) - evaluated) < 1e-5


def test_plan_llama_70b_prints_what_the_readme_shows(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    printed = _run([sys.executable, str(EXAMPLES / "plan_llama_70b.py")], tmp_path)
    assert "70.6 B parameters" in printed and "64 devices" in printed
    assert re.search(r"\d+ TFLOP/s a device \(MFU \d+\.\d %\)", printed)
    readme = EXAMPLES.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- demo:begin -->\n")
    shown, _, after = rest.partition("<!-- demo:end -->")
    wanted = f"```\n{printed.rstrip()}\n```\n"
    if request.config.getoption("--update-snapshots"):
        readme.write_text(f"{before}<!-- demo:begin -->\n{wanted}<!-- demo:end -->{after}", encoding="utf-8")
    else:
        assert shown == wanted, (
            "README.md shows another plan: run pytest with --update-snapshots, and read what changed"
        )

"""`autopart calibrate`: what it measures on local processes, writes, prints and refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from autopart import api, calibration
from autopart.cli import main
from autopart.errors import LaunchError
from autopart.runtime.launch import run
from cost_models.calibrate import kernels, measure, messages
from cost_models.calibrate.samples import Samples
from cost_models.cluster import load_cluster
from cost_models.device import load_device

FEW = kernels.Sizes(((32, 48, 16), (64, 32, 32)), 1, ((512, 512),), ((2, 16, 8),), (16, 16, 16))


def measured_small() -> Samples:
    """All that is measured, on small tensors and few rounds."""
    kernels.SIZES["cpu"] = FEW
    messages.SIZES_BYTES = (2**8, 2**14)
    return measure.measure(0.0)


@pytest.fixture(scope="module")
def ranks() -> list[Samples]:
    """Of two processes."""
    return run(measured_small, 2, timeout_s=120)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, ranks: list[Samples]) -> dict[str, Any]:
    """What the processes were started with; they answer with what was measured before."""
    asked: dict[str, Any] = {}

    def started(function: object, world: int, args: tuple[object, ...], timeout_s: float) -> list[Samples]:
        asked.update(function=function, world=world, args=args, timeout_s=timeout_s)
        return ranks[:1] * world

    monkeypatch.setattr(calibration, "run", started)
    return asked


def test_what_a_process_measures(ranks: list[Samples]) -> None:
    """Every dtype, every op and every collective has a time, and both ranks measured the same things."""
    first, second = ranks
    assert first.kind == "cpu" and first.processor
    assert {sample.dtype for sample in first.products} == set(measure.DTYPES)
    assert len(first.products) == 2 + 3  # all sizes in float32, one in each other
    assert {message.collective for message in first.messages} == set(messages.COLLECTIVES)
    assert all(sample.seconds > 0 for sample in (*first.products, *first.moves, *first.heads))
    assert all(message.seconds >= 0 for message in first.messages)
    assert first.launch_s > 0 and 0 < first.context_bytes < first.memory_bytes

    def named(samples: Samples) -> list[tuple[object, ...]]:
        return [(m.collective, m.ranks, m.size_bytes) for m in samples.messages]

    assert named(first) == named(second)


def test_the_command_writes_what_it_says(
    small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["calibrate", "--world", "2", "--output", str(folder), "--name", "bench"]) == 0
    printed = capsys.readouterr().out
    assert small["world"] == 2 and small["function"] is measure.measure
    cluster = load_cluster(folder / "cluster.toml")
    assert cluster.name == "bench" and cluster.device.name == "bench-device" and cluster.devices_per_node == 2
    assert cluster.device == load_device(folder / "device.toml")
    assert str(folder / "cluster.toml") in printed and str(folder / "device.toml") in printed
    assert "products, float32" in printed and "all_reduce" in printed and "mean error" in printed
    sources = dict(cluster.device.sources) | dict(cluster.sources)
    for figure in ("kernel_launch_s", "matmul_fraction", "memory_bandwidth_bytes_per_s", "protocol", "intra_node"):
        assert "measured by autopart calibrate on" in sources[figure] and "2 processes" in sources[figure]


def test_a_plan_on_what_was_measured(small: dict[str, Any], tmp_path: Path) -> None:
    """The file is a cluster as any other."""
    found = api.calibrate(2, tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    plan = api.plan(model, 2, cluster=found.cluster_path, global_batch=8, inputs=torch.zeros(4, 16))
    assert plan.world == 2 and plan.predicted.step_time_s > 0


def test_one_process_has_no_cluster(small: dict[str, Any], tmp_path: Path) -> None:
    found = api.calibrate(1, tmp_path)
    assert found.cluster is None and found.cluster_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["device.toml"]
    assert "calibrate with world=2 or more" in str(found)


def test_fewer_gpus_than_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(LaunchError, match=r"world=4, and this machine has 3 GPUs: calibrate with world=3"):
        api.calibrate(4, tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before a minute is spent on measuring."""
    (tmp_path / "file").write_text("")
    assert main(["calibrate", "--world", "2", "--output", str(tmp_path / "file" / "folder")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the directory") and "pass another --output" in error


def test_a_file_that_cannot_be_written(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "device.toml").mkdir()
    with pytest.raises(LaunchError, match="the calibration cannot be written"):
        api.calibrate(2, tmp_path)


def _calls_run() -> list[tuple[str, bool]]:
    """Run every call as often on all ranks; its name, and whether its group is everyone."""
    found = []
    messages.SIZES_BYTES = (2**8, 2**14)
    for call in messages.calls("gloo", torch.device("cpu")):
        for _ in range(3):
            call.run()
        found.append((call.collective, dist.get_world_size() == call.ranks))
    return found


def test_groups_of_every_size_that_divides_the_world() -> None:
    """Of four processes, pairs and all; sends between pairs only."""
    found = run(_calls_run, 4, timeout_s=120)[0]
    assert {name for name, everyone in found if everyone} == set(messages.COLLECTIVES) - {"send"}
    assert {name for name, everyone in found if not everyone} == set(messages.COLLECTIVES)

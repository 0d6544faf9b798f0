"""calibration: the machine at hand measured on local processes, and written as a device file and a cluster file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from autopart.errors import LaunchError
from autopart.report.grid import grid
from autopart.runtime.at_hand import cluster_of_gpu
from autopart.runtime.launch import run
from cost_models.calibrate.error import Fit
from cost_models.calibrate.fit_cluster import fit_cluster
from cost_models.calibrate.fit_device import fit_device
from cost_models.calibrate.measure import measure
from cost_models.calibrate.merge import merge
from cost_models.calibrate.samples import Samples
from cost_models.calibrate.write import cluster_toml, device_toml
from cost_models.cluster import Cluster
from cost_models.device import Device, load_device
from cost_models.stack import load_stack

DEVICE_FILE, CLUSTER_FILE = "device.toml", "cluster.toml"
LIMIT_S = 45.0
HANGS_S = 600.0
CPU = "cpu-core"
STACK = "autopart"  # whose products are measured


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, where it was written, and how near the formulas come to it with the fitted figures.

    `cluster` and its file are None where one process was measured, which has nobody to send to.
    """

    device: Device
    cluster: Cluster | None
    device_path: Path
    cluster_path: Path | None
    fits: tuple[Fit, ...]
    measured: str

    def __str__(self) -> str:
        """The figures, and the errors of the fit, as tables."""
        device, rows = self.device, []
        for arithmetic in device.arithmetics:
            rate = arithmetic.peak_flops_per_s * arithmetic.matmul_fraction
            rows.append((f"products, {arithmetic.dtype}", f"{rate / 1e9:.4g} GFLOP/s"))
        bandwidth = device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction
        rows.append(("memory", f"{bandwidth / 1e9:.3g} GB/s"))
        rows.append(("launch of a kernel", f"{device.kernel_launch_s * 1e6:.3g} us"))
        if self.cluster is not None:
            protocol, link = self.cluster.protocols[0], self.cluster.intra_node.sustained_bytes_per_s
            latency_s = protocol.intra_node_latency_s
            send = link * protocol.intra_node_fraction
            rows.append(("send", f"{send / 1e9:.3g} GB/s after {(protocol.send_start_s + latency_s) * 1e6:.0f} us"))
            start = f"{(protocol.start_s + 2 * latency_s) * 1e6:.0f} us"
            rows.append(("all-reduce of two", f"{send * protocol.all_reduce_factor / 1e9:.3g} GB/s after {start}"))
        fits = [(f.what, f.samples, f"{f.mean_error:.0%}", f"{f.worst_error:.0%}") for f in self.fits]
        paths = [str(path) for path in (self.device_path, self.cluster_path) if path is not None]
        how = (
            f'plan with it: --cluster {self.cluster_path}, or cluster="{self.cluster_path}"'
            if self.cluster_path
            else "one process sends nothing: for a cluster file, calibrate with world=2 or more"
        )
        return "\n".join(
            [
                self.measured,
                "",
                *grid(rows, ("of one process", "sustained"), "lr"),
                "",
                *grid(fits, ("fit", "samples", "mean error", "worst"), "lrrr"),
                "",
                f"written {' and '.join(paths)}",
                how,
            ]
        )


def calibrate(world: int, directory: str | Path, name: str = "calibrated", limit_s: float = LIMIT_S) -> Calibration:
    """Measure what each of `world` local processes gets while all compute, and write it into `directory`.

    A process has a GPU where there are any, else a share of the CPUs. It takes about a minute.

    Args:
        world: how many processes: as many as will train together, since they share cores and memory.
        directory: where `device.toml` and `cluster.toml` are written; it is made if it is not there.
        name: of the cluster; its device is called "<name>-device".
        limit_s: no round of measurements is begun after so many seconds, but for the first three.

    Raises:
        LaunchError: fewer GPUs than processes, or a directory that cannot be written.
        WorkerError: a process failed.
    """
    folder = Path(directory)
    gpus = torch.cuda.device_count()
    if gpus and world > gpus:
        raise LaunchError(f"world={world}, and this machine has {gpus} GPUs: calibrate with world={gpus}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"the directory {folder} cannot be made: {error}; pass another --output") from error
    ranks = run(measure, world, (limit_s,), timeout_s=max(HANGS_S, 4 * limit_s))
    return write(ranks, folder, name)


def write(ranks: list[Samples], folder: Path, name: str) -> Calibration:
    """Fit what the ranks measured, and write both files into `folder`.

    Raises:
        LaunchError: a file cannot be written.
    """
    world, samples = len(ranks), merge(ranks)
    processes = "1 process" if world == 1 else f"{world} processes"
    source = f"measured by autopart calibrate on {samples.processor}, {processes}, {datetime.now(UTC).date()}"
    base = load_device(CPU) if samples.kind == "cpu" else cluster_of_gpu(samples.processor, samples.memory_bytes).device
    speed = load_stack(STACK).product_speed
    device, fits = fit_device(samples, f"{name}-device", base, source, speed)
    title = f"{samples.processor}: {source}"
    texts = {DEVICE_FILE: device_toml(device, title)}
    cluster = None
    if world > 1:
        cluster, more = fit_cluster(samples.messages, name, device, world, source)
        fits += more
        texts[CLUSTER_FILE] = cluster_toml(cluster, DEVICE_FILE, title)
    try:
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LaunchError(f"the calibration cannot be written into {folder}: {error}; pass another --output") from error
    path = folder / CLUSTER_FILE if cluster is not None else None
    return Calibration(device, cluster, folder / DEVICE_FILE, path, fits, source[0].upper() + source[1:])

"""Launch: run a function on local processes, as `torchrun` would, and bring back what it returns."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from autopart.errors import WorkerError

GRACE_S = 5.0
SETTLE_S = 0.5
COLLECTIVE_TIMEOUT_S = 600.0
MOST_STARTS = 3
PRELOADED = ("autopart.api", "torch.export._trace", "torch._functorch.aot_autograd")  # what ranks begin by importing


def run(
    function: Callable[..., Any], world: int, args: Sequence[Any] = (), timeout_s: float | None = None
) -> list[Any]:
    """Call `function(*args)` on `world` local processes with a gloo process group, and wait for all of them.

    Args:
        function: importable by its name, since no process shares the memory of this one; a function of the running
            script is.
        world: how many processes.
        args: arguments, the same for each.
        timeout_s: after so many seconds all processes are ended with an error; left out, they may run on as long as
            no single collective waits for more than ten minutes.

    Returns:
        What each rank returned, in order of rank.

    Raises:
        WorkerError: a process raised or died; the others are ended at once. The message has its rank and traceback.
    """
    for _ in range(MOST_STARTS - 1):
        try:
            return _run_once(function, world, args, timeout_s)
        except _UnconnectedError:
            continue  # gloo now and then fails to connect fresh processes; nothing of the function has run
    return _run_once(function, world, args, timeout_s)


class _UnconnectedError(WorkerError):
    """The processes did not find each other."""


def _run_once(function: Callable[..., Any], world: int, args: Sequence[Any], timeout_s: float | None) -> list[Any]:
    context = _context()
    threads = max(1, (os.cpu_count() or 1) // world)
    with tempfile.TemporaryDirectory(prefix="autopart-") as folder:
        processes, pipes = [], []
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            work = (function, tuple(args), rank, world, folder, timeout_s, threads, dict(os.environ), sender)
            process = context.Process(target=_worker, args=work, name=f"autopart-rank-{rank}")
            process.start()
            sender.close()
            processes.append(process)
            pipes.append(receiver)
        try:
            results = _collect(pipes, processes, timeout_s)
            for process in processes:
                process.join(GRACE_S)
            return results
        finally:
            _end(processes)


def _context() -> Any:
    """How processes are started: as copies of one that has imported what every rank needs, which takes it seconds.

    That one imports nothing of the user's, and runs no thread and no device. On macOS, what torch loads does not
    bear to be copied.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _end(processes: Sequence[Any]) -> None:
    """End what still runs, politely at first."""
    running = [process for process in processes if process.is_alive()]
    for process in running:
        process.terminate()
    for process in running:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _collect(pipes: Sequence[Connection], processes: Sequence[Any], timeout_s: float | None) -> list[Any]:
    answers: dict[int, _Answer] = {}
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    while waiting:
        failed = any(answer.error is not None for answer in answers.values())
        ready = wait(list(waiting), None if end_s is None else max(0.0, end_s - time.monotonic()))
        if not ready and failed:
            break
        if not ready:
            raise WorkerError(f"ranks {sorted(waiting.values())} did not finish within {timeout_s:.0f} s")
        for pipe in ready:
            if isinstance(pipe, Connection):
                rank = waiting.pop(pipe)
                answers[rank] = _answer(pipe, processes[rank])
        if not failed and any(answer.error is not None for answer in answers.values()):
            # One failure makes others, which may be heard of first: a moment for the one that began.
            end_s = time.monotonic() + SETTLE_S
    failures = {rank: answer for rank, answer in answers.items() if answer.error is not None}
    if failures:
        raise _failure(failures, len(pipes))
    return [answers[rank].result for rank in range(len(pipes))]


@dataclass(frozen=True)
class _Answer:
    """What came of a rank: its result, or the type of its error with the traceback; and when, in seconds.

    A process that died has no traceback, but an `exit_code`.
    """

    error: type[WorkerError] | None
    result: Any
    at_s: float
    exit_code: int | None = None


def _answer(pipe: Connection, process: Any) -> _Answer:
    try:
        return _Answer(*pipe.recv())
    except EOFError:
        process.join(GRACE_S)
        return _Answer(WorkerError, "", 0.0, process.exitcode)


def _failure(failures: Mapping[int, _Answer], world: int) -> WorkerError:
    """The error of the rank that failed first; one that died did so before others could notice."""
    rank, first = min(failures.items(), key=lambda item: item[1].at_s)
    error = first.error or WorkerError
    if first.exit_code is None:
        return error(f"rank {rank} of {world} failed:\n{first.result}")
    killed = ", as when the system is out of memory" if first.exit_code == -signal.SIGKILL else ""
    message = f"rank {rank} of {world} died with exit code {first.exit_code}{killed} and without an error message"
    seen = [f"rank {other} then failed:\n{answer.result}" for other, answer in failures.items() if answer.result]
    return error("\n".join([message, *seen[:1]]))


def _worker(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world: int,
    folder: str,
    timeout_s: float | None,
    threads: int,
    environment: Mapping[str, str],
    pipe: Connection,
) -> None:
    os.environ.clear()  # that of the process it is a copy of, which may be older
    os.environ.update(environment)
    np.random.seed()  # as in a fresh process; torch begins with the same seed in each, and random is seeded by itself
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    torch.set_num_threads(threads)
    error: type[WorkerError] = _UnconnectedError
    try:
        join_group(rank, world, Path(folder) / "rendezvous", timeout_s or COLLECTIVE_TIMEOUT_S)
        error = WorkerError
        pipe.send((None, function(*args), time.monotonic()))
        dist.destroy_process_group()
    except BaseException:  # whatever ends this rank must reach the parent, which ends the others
        pipe.send((error, traceback.format_exc(), time.monotonic()))
    finally:
        pipe.close()


def _end_with_parent(folder: str) -> None:
    """Wait until the parent is gone, which ends its processes unless it was killed: they are not to train on."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def join_group(rank: int, world: int, rendezvous: Path, timeout_s: float) -> None:
    """Become `rank` of a gloo process group of `world` processes that meet at the file `rendezvous`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
    )

"""A pool of worker processes, started once a test session, that meet in a new process group for every call."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from autopart.runtime import launch

TIMEOUT_S = 120.0
MOST_TRIES = 3
PRELOADED = (  # what every worker would take seconds to import
    *launch.PRELOADED,
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
NOT_CONNECTED = "connectFullMesh failed"


class WorkerPool:
    """`size` processes; `run` calls a function on the first few of them as the ranks of a job."""

    def __init__(self, size: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._folder = tempfile.TemporaryDirectory(prefix="autopart-tests-")
        self._size = size
        self._workers: list[tuple[Any, Connection]] = []
        self._calls = 0

    def run(self, function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
        """What `function(*args)` returned on each of `world` ranks; an AssertionError if one failed.

        Gloo now and then fails to connect the ranks of a new group; then, and only then, it is tried again.
        """
        for _ in range(MOST_TRIES - 1):
            try:
                return self._run(function, world, args)
            except AssertionError as error:
                if NOT_CONNECTED not in str(error):
                    raise
        return self._run(function, world, args)

    def _run(self, function: Callable[..., Any], world: int, args: tuple[Any, ...]) -> list[Any]:
        self._start()
        self._calls += 1
        rendezvous = Path(self._folder.name) / f"rendezvous-{self._calls}"
        pipes = {pipe: rank for rank, (_, pipe) in enumerate(self._workers[:world])}
        for pipe, rank in pipes.items():
            pipe.send((function, args, rank, world, str(rendezvous)))
        results: dict[int, Any] = {}
        while pipes:
            ready = wait(list(pipes), TIMEOUT_S)
            if not ready:
                self.close()
                raise AssertionError(f"ranks {sorted(pipes.values())} did not answer within {TIMEOUT_S:.0f} s")
            for pipe in ready:
                rank = pipes.pop(pipe)  # type: ignore[arg-type, call-overload]
                try:
                    failed, result = pipe.recv()  # type: ignore[union-attr]
                except (EOFError, ConnectionError):
                    failed, result = True, "its process died"
                if failed:
                    self.close()
                    raise AssertionError(f"rank {rank} failed:\n{result}")
                results[rank] = result
        return [results[rank] for rank in range(world)]

    def _start(self) -> None:
        while len(self._workers) < self._size:
            mine, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, mine))

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
        for process, _ in self._workers:
            process.join(5)
        self._workers.clear()


def _serve(pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    from autopart.runtime.launch import join_group

    torch.set_num_threads(1)
    while True:
        try:
            function, args, rank, world, rendezvous = pipe.recv()
        except EOFError:
            return
        try:
            join_group(rank, world, Path(rendezvous), TIMEOUT_S)
            pipe.send((False, function(*args)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

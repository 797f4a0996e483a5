"""A parallel map that no single item can break.

Libraries written in C and Fortran crash or loop on structures that a bad model invents. Such a structure has
to count as failed; it must not take the evaluation with it.
"""

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from gen3d.errors import Gen3dError
from gen3d.progress import tqdm

logger = logging.getLogger(__name__)

CHUNK = 16
"""Items sent to a worker at once: enough to hide the transfer, few enough to share the work evenly."""
START_SECONDS = 300.0
"""Longest wait for a worker's imports, generous because the machine may be busy."""


def guarded_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int | None = None,
    timeout: float = 60.0,
    description: str | None = None,
) -> list[Any]:
    """`[function(item) for item in items]` over processes, surviving crashes and endless loops.

    Every worker is a fresh single-threaded process (start method "spawn") and answers item by item. So
    when one dies or is silent for `timeout` seconds, the item at fault is known: it gets None, and
    a new worker does the rest. A `function` that raises is a bug and ends the map.

    Args:
        function: importable by name; returns something picklable other than None.
        items: picklable.
        workers: number of processes, all usable cores by default; 0 computes here, unprotected.
        timeout: seconds for one item.
        description: title of the progress bar; no bar when None.

    Raises:
        Gen3dError: as raised by `function`, or the worker processes cannot start.
        RuntimeError: `function` raised something else.
    """
    with tqdm(total=len(items), desc=description, disable=description is None, leave=False) as bar:
        if workers == 0:
            results = []
            for item in items:
                results.append(function(item))
                bar.update()
            return results
        return _map_over_processes(function, items, workers or _usable_cores(), timeout, bar)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    pending: deque[int] = field(default_factory=deque)
    """Indices sent and not answered, in the order in which the worker takes them."""
    deadline: float = 0.0
    ready: bool = False


def _map_over_processes(
    function: Callable[[Any], Any], items: Sequence[Any], count: int, timeout: float, bar: tqdm
) -> list[Any]:
    results: list[Any] = [None] * len(items)
    chunks = deque(deque(range(i, min(i + CHUNK, len(items)))) for i in range(0, len(items), CHUNK))
    crew: list[_Worker] = []
    lost = 0
    try:
        while chunks or any(worker.pending for worker in crew):
            while chunks and len(crew) < count:
                crew.append(_start(function))
            for worker in crew:
                if worker.ready and chunks and not worker.pending:
                    worker.pending = chunks.popleft()
                    worker.connection.send([items[i] for i in worker.pending])
                    worker.deadline = time.monotonic() + timeout
            for worker in _await(crew):
                answer = _receive(worker)
                if answer is None:  # dead or too late
                    _stop(worker)
                    crew.remove(worker)
                    if not worker.ready:
                        raise Gen3dError(
                            "the worker processes of the evaluation cannot start. A script must do its work "
                            'under if __name__ == "__main__":, or pass workers=0'
                        )
                    worker.pending.popleft()
                    lost += 1
                    bar.update()
                    if worker.pending:
                        chunks.appendleft(worker.pending)
                elif answer[0] == "ready":
                    worker.ready = True
                elif answer[0] == "result":
                    results[worker.pending.popleft()] = answer[1]
                    worker.deadline = time.monotonic() + timeout
                    bar.update()
                else:
                    raise answer[1]
    finally:
        for worker in crew:
            _stop(worker)
    if lost:
        logger.warning(
            "%d of %d structures crashed or exceeded %g s and count as failed", lost, len(items), timeout
        )
    return results


def _await(crew: list[_Worker]) -> list[_Worker]:
    """The workers that answered, died or passed their deadline; blocks until there is one."""
    busy = [worker for worker in crew if worker.pending or not worker.ready]
    patience = min(worker.deadline for worker in busy) - time.monotonic()
    answered = wait([worker.connection for worker in busy], timeout=max(0.0, patience))
    now = time.monotonic()
    return [worker for worker in busy if worker.connection in answered or worker.deadline <= now]


def _receive(worker: _Worker) -> tuple[str, Any] | None:
    try:
        return worker.connection.recv() if worker.connection.poll() else None
    except (EOFError, OSError):
        return None


def _start(function: Callable[[Any], Any]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    with _single_threaded():
        process.start()
    theirs.close()  # so that the end of the process closes the pipe
    return _Worker(process, ours, deadline=time.monotonic() + START_SECONDS)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a worker: answer chunks of items, one message an item, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    connection.send(("ready", None))
    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            return
        for item in chunk:
            try:
                answer = ("result", function(item))
            except Gen3dError as error:
                answer = ("error", Gen3dError(str(error)))
            except Exception:
                answer = ("error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
            connection.send(answer)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started within use one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

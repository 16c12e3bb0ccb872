"""Threads for the programs of a launch, as many as torch has; torch works on one thread in each.

So a matrix product has the same bits however many threads there are, and whichever of them runs it.
"""

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch

PATIENCE = 0.2  # seconds that a signal waits which came after Python last asked for one and before it waits
_tasks: SimpleQueue = SimpleQueue()  # a signal handler may put into it while the same thread does
_workers: list[threading.Thread] = []
_here = threading.local()  # has `works` in a worker


def run(function: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """Call the function with each item; return when all have ended. In a worker, and with one thread, that is here.

    Raises:
        BaseException: what one that failed raised; items not begun are left.
    """
    items, count = list(items), torch.get_num_threads()
    if count == 1 or hasattr(_here, "works"):
        for item in items:
            function(item)
        return
    shares = min(count, len(items))
    _start(shares)
    left, woken = iter(items), SimpleQueue()  # type: ignore[var-annotated]
    ended: list[BaseException | None] = []
    failure = None
    put = 0
    while len(ended) < shares:
        try:
            while put < shares:
                _tasks.put(functools.partial(_share, function, left, ended, woken))
                put += 1
            while len(ended) < shares:  # not a count of what is got: a signal's exception may lose one
                with contextlib.suppress(Empty):
                    woken.get(timeout=PATIENCE)
        except BaseException as error:  # a signal's: the others write into the caller's memory until they end
            deque(left, 0)
            failure = error
    failure = next(filter(None, ended), failure)
    if failure is not None:
        raise failure


def _share(
    function: Callable[[Any], Any], left: Iterable[Any], ended: list[BaseException | None], woken: SimpleQueue
) -> None:
    failure = None
    try:
        for item in left:
            function(item)
    except BaseException as error:
        deque(left, 0)
        failure = error
    ended.append(failure)
    woken.put(None)


def _start(count: int) -> None:
    """At least so many workers."""
    while len(_workers) < count:
        threads, ready = torch.get_num_threads(), threading.Event()
        worker = threading.Thread(target=_work, args=(_tasks, ready), daemon=True, name="tritonconv")
        _workers.append(worker)
        worker.start()
        ready.wait()
        torch.set_num_threads(threads)  # the worker's own number is also that of threads to come


def _work(tasks: SimpleQueue, ready: threading.Event) -> None:
    _here.works = True
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first question of a thread takes over the process's number: it is 1 at this moment
    ready.set()
    with np.errstate(all="ignore"):
        while True:
            tasks.get()()


def _forget() -> None:
    """A child of fork has none of its parent's threads."""
    global _tasks
    _tasks = SimpleQueue()
    _workers.clear()


os.register_at_fork(after_in_child=_forget)

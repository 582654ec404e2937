"""A function called in several threads at once: in those that torch's own operations run in, where these can be had.

Threads of our own would share the cores with those of torch, which go on turning for a while after their work, so as to
be there at once for the next one. They stand in where torch has others, and in a child forked from a process that has
loaded this module: the child has lost them.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["Call", "at_hand"]

_pools: dict[int, ThreadPoolExecutor] = {}
_parent = os.getpid()  # in a child the threads of OpenMP are gone, and it would wait for them for ever
os.register_at_fork(after_in_child=_pools.clear)


@cache
def _openmp() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """The entry into a parallel region of the OpenMP library that torch is linked to, with and without letting go of
    the interpreter; None for a torch that has none of this kind."""
    try:
        library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))))
        types = None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        return ctypes.CFUNCTYPE(*types)(("GOMP_parallel", library)), ctypes.PYFUNCTYPE(*types)(
            ("GOMP_parallel", library)
        )
    except (StopIteration, OSError, AttributeError):
        return None


def at_hand() -> bool:
    """Whether torch's threads can be had, so that none of our own have to be waited for."""
    return os.getpid() == _parent and _openmp() is not None


class Call:
    """A compiled function void f(arguments), which shares its work out among the threads that call it."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)  # which lets go of the interpreter
        self._keep = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address)

    def __call__(self, arguments: Any, threads: int, *, letting_go: bool = False) -> None:
        """Call it in so many threads, this one among them, and wait for all.

        letting_go: others may use the interpreter meanwhile.
        """
        openmp = _openmp()
        if threads > 1 and openmp is not None and at_hand():
            openmp[not letting_go](self._address, arguments, threads, 0)
            return
        if not letting_go:
            self._keep(arguments)
            return
        futures: list[Future[None]] = []
        if threads > 1:
            pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, thread_name_prefix="stepscope"))
            futures = [pool.submit(self._run, arguments) for _ in range(threads - 1)]
        try:
            self._run(arguments)
        finally:
            _wait(futures)


def _wait(futures: Sequence[Future[None]]) -> None:
    """Wait for all, also if interrupted: they write to memory that would be freed. One that has not begun has nothing
    left to do."""
    interrupt: KeyboardInterrupt | None = None
    for future in futures:
        while not future.cancel() and not future.done():
            try:
                wait([future])
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt

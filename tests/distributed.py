"""Tests in two processes that talk over gloo: each runs a function, whose results come back by rank."""

import datetime
import multiprocessing
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

__all__ = ["in_processes"]

SECONDS = 280
_context: Any = None


def in_processes(function: Callable[..., Any], folder: Path, *arguments: Any, world: int = 2) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of `world` processes. It has to be a module's own function.

    The processes are forked from a server that has torch loaded, so that they start in a tenth of a second.
    """
    global _context  # noqa: PLW0603 - one server for all tests
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(["torch", "torch.distributed.fsdp", "stepscope.scope"])
    folder.mkdir(exist_ok=True)
    processes = [
        _context.Process(target=_main, args=(function, rank, world, folder, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
    results = [_result(folder / f"{rank}.pickle") for rank in range(world)]
    failures = [text for kind, text in results if kind == "failed"]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def _result(path: Path) -> tuple[str, Any]:
    return pickle.loads(path.read_bytes()) if path.exists() else ("failed", f"{path.stem} did not come to an end")


def _main(function: Callable[..., Any], rank: int, world: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")  # torch.distributed's own; the tests proper let none pass
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    store = distributed.FileStore(str(folder / "store"), world)
    patience = datetime.timedelta(seconds=SECONDS / 2)
    try:
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
        result = ("done", function(rank, *arguments))
    except BaseException:
        result = ("failed", f"process {rank}:\n{traceback.format_exc()}")
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    if distributed.is_initialized():
        distributed.destroy_process_group()

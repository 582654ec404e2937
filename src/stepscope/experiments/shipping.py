"""A problem on its way to the processes that train it, and the fingerprint by which a resumed sweep knows it again."""

import contextlib
import hashlib
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from stepscope import problems
from stepscope.errors import UserError
from stepscope.experiments.executor import inside_worker
from stepscope.problems import Data, Problem

__all__ = ["Parcel", "fingerprint", "load", "pack", "refuse_nested_call", "unpack"]

IN_A_FILE = "put it in a file of its own and pass 'FILE.py:NAME'"

_loading = False


class _StopMain(BaseException):
    """Ends the re-run of a script at the line where it calls us; not an Exception, so that no script catches it."""


@dataclass(frozen=True)
class Parcel:
    """How to make the problem again: from its ``spec``, or from a pickle, after running the script ``main`` if it needs
    names from there.
    """

    spec: str = ""
    pickled: bytes = b""
    main: str = ""


def pack(problem: Problem, mark: str) -> Parcel:
    """Ready to send.  mark: the problem's `fingerprint`.

    A problem with a ``spec`` goes as that, unless loading it gives another problem: somebody may have replaced a field.
    Any other goes as a pickle.  Raises: UserError if it cannot be pickled, or was typed into an interactive session.
    """
    if problem.spec:
        loaded = problems.load(problem.spec)
        if fingerprint(loaded, loaded.data()) == mark:
            return Parcel(spec=problem.spec)
    try:
        pickled = pickle.dumps(tuple(_bare(getattr(problem, field.name)) for field in fields(problem)))
    except Exception as error:  # whatever the problem's own objects raise
        raise UserError(f"{problem.name!r} cannot be sent to other processes ({error}): {IN_A_FILE}.") from error
    if b"__main__" not in pickled:
        return Parcel(pickled=pickled)
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is None or not Path(main).is_file():
        raise UserError(f"{problem.name!r} lives in an interactive session, where no process finds it: {IN_A_FILE}.")
    return Parcel(pickled=pickled, main=str(Path(main).resolve()))


def unpack(parcel: Parcel) -> Problem:
    """The problem, in the process that trains it.  Raises: UserError if it cannot be made again there."""
    if parcel.spec:
        return problems.load(parcel.spec)
    try:
        if parcel.main:
            _run_main(parcel.main)
        return Problem(*pickle.loads(parcel.pickled))
    except Exception as error:
        raise UserError(f"the problem cannot be made again in another process ({error!r}): {IN_A_FILE}.") from error


def load(spec: str) -> Problem:
    """As `problems.load`, but a problem's file that dissects itself is refused instead of loaded for ever."""
    global _loading  # noqa: PLW0603 - the call to refuse comes through the user's file
    _loading = True
    try:
        return problems.load(spec)
    finally:
        _loading = False


def refuse_nested_call() -> None:
    """For whoever starts processes to call first: a script without ``if __name__ == "__main__"`` comes by again.

    In a worker it ends the re-run of the script there.  Raises: UserError while a problem's file is being loaded.
    """
    if inside_worker():
        raise _StopMain
    if _loading:
        raise UserError("it calls dissect() while it is loaded; put that under: if __name__ == '__main__'")


def fingerprint(problem: Problem, data: Data) -> str:
    """16 hex digits that change with the data, the model, the loss or the metric; names and comments do not count.

    Hashes every tensor, the model of seed 0 with its printed structure, and its loss and metric on the first batch to 6
    digits. So with what a problem may have beside: penalty, augmentation, the schedule at every step, the order.
    """
    model = problem.model(0)
    digest = hashlib.sha256(repr(model).encode())
    tensors = [data.train.inputs, data.train.targets, data.test.inputs, data.test.targets, *model.state_dict().values()]
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    batch = slice(problem.protocol.batch_size)
    targets = data.train.targets[batch]
    with torch.no_grad():
        outputs = model.eval()(data.train.inputs[batch])
        values = [problem.loss(outputs, targets)]
        if problem.metric is not None:
            values.append(problem.metric.per_example(outputs, targets).double().mean())
        if problem.penalty is not None:
            values.append(problem.penalty(model))
        if problem.augment is not None:
            inputs = problem.augment(data.train.inputs[batch], torch.Generator().manual_seed(0))
            values.append((inputs.double().flatten() * torch.linspace(1, 2, inputs.numel())).mean())
    digest.update(" ".join(f"{value.item():.6g}" for value in values).encode())
    protocol = problem.protocol
    if protocol.schedule is not None:
        factors = [protocol.schedule(step, protocol.steps) for step in range(1, protocol.steps + 1)]
        digest.update(struct.pack(f"{len(factors)}d", *factors))
    if protocol.in_order:
        digest.update(b"in order")
    return digest.hexdigest()[:16]


def _bare(value: Any) -> Any:
    """A field as its owner wrote it: Problem wraps functions to guard the random numbers, and pickle cannot follow."""
    while isinstance(value, FunctionType) and value.__code__.co_qualname.startswith("Problem."):
        inner: Callable[..., Any] = value.__wrapped__  # type: ignore[attr-defined]
        value = inner
    return value


def _run_main(path: str) -> None:
    """Run the script as multiprocessing would, under another name than __main__, up to where it calls us."""
    module = ModuleType("__mp_main__")
    module.__file__ = path
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    with contextlib.suppress(_StopMain):
        exec(compile(Path(path).read_bytes(), path, "exec"), vars(module))

"""A trial's folder: the result appears in it whole or not at all, and an attempt that was killed is gone on with.

An attempt works in ``.ID`` beside the finished trials, alone there by a lock that ends with its process. Now and then
it leaves a checkpoint, which is replaced in one rename; the next attempt starts from it and comes to the same bits.
"""

import contextlib
import errno
import io
import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from stepscope.errors import FolderInUse, UserError
from stepscope.experiments.shipping import Parcel, unpack
from stepscope.experiments.trial import Training, Trial
from stepscope.store import write_json
from stepscope.store.files import replacing
from stepscope.store.lock import FolderLock, is_held

__all__ = [
    "CHECKPOINT",
    "CHECKPOINT_SECONDS",
    "RESULT",
    "abandoned",
    "alone",
    "checkpoint",
    "publish",
    "resumable",
    "run_trial",
    "save",
    "telling_a_full_disk",
]

CHECKPOINT_SECONDS: Final = 30.0  # of training that a killed attempt may lose ...
MOST_SHARE: Final = 0.02  # ... or more, where a checkpoint would take more than this share of the time
PATIENCE: Final = 600.0  # seconds for a former attempt, on a machine that was given up, to end

CHECKPOINT, RESULT, LOCK = "checkpoint.pt", "result.json", "lock"


def run_trial(trial: Trial, parcel: Parcel, folder: Path, seconds: float = CHECKPOINT_SECONDS) -> None:
    """Train in a process of its own: the finished trial appears as ``folder/<id>`` in one rename, or not at all.

    seconds: between checkpoints, 0 for one after every step.  What the problem prints goes to log.txt there.
    Raises: UserError where the user has to act (the disk is full).
    """
    torch.set_num_threads(1)  # the same bits however many trials share the machine
    place = folder / trial.id
    with telling_a_full_disk(folder, [trial]), alone(folder / f".{trial.id}", place) as attempt:
        if attempt is not None:
            if not (attempt / RESULT).exists():
                _train(trial, parcel, attempt, seconds)
            publish(attempt, place)


def publish(attempt: Path, place: Path) -> None:
    """Let an attempt that has its result appear as a finished trial."""
    for leftover in (attempt / CHECKPOINT, *attempt.glob(".*.tmp"), attempt / LOCK):
        leftover.unlink(missing_ok=True)
    attempt.rename(place)


@contextlib.contextmanager
def telling_a_full_disk(folder: Path, trials: Sequence[Trial]) -> Iterator[None]:
    """Raises: UserError for a full disk, with the attempts taken away, which hold what could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            for trial in trials:
                shutil.rmtree(folder / f".{trial.id}", ignore_errors=True)
            raise UserError(f"the disk of {folder} is full: free some space and run the same again.") from error
        raise


def resumable(attempt: Path) -> bool:
    """Whether an attempt left something to go on with."""
    return (attempt / CHECKPOINT).is_file() or (attempt / RESULT).is_file()


def abandoned(attempt: Path) -> bool:
    """Whether nobody works there."""
    return not is_held(attempt / LOCK)


@contextlib.contextmanager
def alone(attempt: Path, place: Path) -> Iterator[Path | None]:
    """The attempt's folder, nobody else being at work there; None if the trial is finished."""
    lock = _locked(attempt, place)
    try:
        yield None if lock is None else attempt
    finally:
        if lock is not None:
            lock.release()


def _locked(attempt: Path, place: Path) -> FolderLock | None:
    """The attempt's lock, its folder being there; None once the trial is finished.

    Raises: RuntimeError if another attempt is still running after a long while.
    """
    deadline = time.monotonic() + PATIENCE
    while not (place / RESULT).exists():
        attempt.mkdir(exist_ok=True)
        try:
            lock = FolderLock(attempt / LOCK)
        except FolderInUse as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"another attempt is still at work in {attempt}") from error
            time.sleep(0.2)
            continue
        except FileNotFoundError:
            continue  # the one that was at work has just finished
        if (place / RESULT).exists():  # and so it has here: the folder is our own, made again
            shutil.rmtree(attempt, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # of a file that is no longer in its place
                lock.check()
                return lock
        lock.release()
    return None


def _train(trial: Trial, parcel: Parcel, attempt: Path, seconds: float) -> None:
    with (attempt / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        problem = unpack(parcel)
        state = checkpoint(attempt / CHECKPOINT)
        if state is not None and state.get("trial") != trial.id:
            state = None
        if state is None:
            shutil.rmtree(attempt / "run", ignore_errors=True)
        started = time.perf_counter() - (state["seconds"] if state else 0.0)
        training = Training(trial, problem, attempt / "run")
        with training.recording():
            if state is not None:
                training.load(state)
                state = None  # its tensors have been copied
            due = time.perf_counter() + seconds
            for _ in training.steps():
                if (now := time.perf_counter()) >= due and training.status == "ok":
                    save({**training.state(), "seconds": now - started}, attempt / CHECKPOINT)
                    cost = time.perf_counter() - now
                    due = now + cost + (seconds and max(seconds, cost / MOST_SHARE))
        passed = time.perf_counter() - started
    if (attempt / "log.txt").stat().st_size == 0:
        (attempt / "log.txt").unlink()
    write_json(attempt / "timing.json", {"seconds": round(passed, 4)})
    write_json(attempt / RESULT, training.result())


def save(state: dict[str, Any], place: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    whole = io.BytesIO()  # torch's own writer tells a full disk by another error
    torch.save(state, whole)
    with replacing(place) as file:
        file.write(whole.getbuffer())


def checkpoint(file: Path) -> dict[str, Any] | None:
    """What was left to go on with; None if nothing was, or if it cannot be read."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        print(f"{file} cannot be read ({error}): the trial begins anew.")  # noqa: T201 - into its log
        return None
    return state

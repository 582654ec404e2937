"""The ledger: every claim, its stored verdict, and how to find out again."""

import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from stepscope.errors import UserError, unknown_name
from stepscope.experiments.claims.claim import Claim, Finding, Verdict, corrected
from stepscope.store.files import replacing, write_json

__all__ = ["MODULES", "STORED", "Entry", "claims", "entry", "reproduce", "run_all", "save", "stored", "write"]

MODULES: tuple[str, ...] = (
    "balles_sign",
    "balles_variance",
    "balles_practice",
    "eigen",
    "networks",
    "kaiser_moments",
    "kaiser_bounds",
    "kaiser_saddle",
    "kaiser_valleys",
    "tutorial",
    "beyond",
)
STORED = Path(__file__).parent / "verdicts.json"
_DIGITS = 4  # of stored numbers, so that a last bit of another processor changes no file


@cache
def claims() -> Mapping[str, Claim]:
    """Every claim by id, paper by paper."""
    out: dict[str, Claim] = {}
    for name in MODULES:
        for one in importlib.import_module(f"stepscope.experiments.claims.{name}").CLAIMS:
            if one.id in out:
                raise ValueError(f"two claims are called {one.id}")
            out[one.id] = one
    return out


@dataclass(frozen=True)
class Entry:
    """A row of the stored ledger."""

    id: str
    verdict: Verdict
    measured: str
    condition: str
    n: int | None = None
    error: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


def entry(id: str, finding: Finding) -> Entry:
    """The row of a finding, numbers rounded."""
    interval = None if finding.interval is None else (_rounded(finding.interval[0]), _rounded(finding.interval[1]))
    return Entry(
        id, finding.verdict, finding.measured, finding.condition, finding.n,
        None if finding.error is None else _rounded(finding.error), interval,
        None if finding.p is None else _rounded(finding.p),
    )  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def stored() -> dict[str, Entry]:
    """The stored verdicts by claim."""
    if not STORED.exists():
        return {}
    rows = json.loads(STORED.read_text("utf-8"))["verdicts"]
    return {
        row["id"]: Entry(**{**row, "verdict": Verdict(row["verdict"]), "interval": _pair(row["interval"])})
        for row in rows
    }


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None else (value[0], value[1])


def save(entries: Iterable[Entry]) -> None:
    """Store the ledger, claim by claim in the order of the papers."""
    by_id = {one.id: one for one in entries}
    rows = [vars(by_id[i]) for i in claims() if i in by_id]
    write_json(STORED, {"schema": "stepscope.claims/1", "verdicts": rows})


def _tested(id: str) -> tuple[str, Finding | None, str, float]:
    """In a process of its own: the finding, or what went wrong, and the seconds it took."""
    begin = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            finding, problem = claims()[id].run(), ""
    except Exception:  # a broken test must not lose the others
        finding, problem = None, traceback.format_exc()
    return id, finding, problem, time.perf_counter() - begin


def run_all(
    ids: Sequence[str] | None = None,
    jobs: int = 2,
    progress: Callable[[str, Finding | None, float], None] = lambda id, finding, seconds: None,
) -> tuple[dict[str, Finding], dict[str, str]]:
    """Test the claims, each in one of `jobs` processes; findings, and tracebacks of tests that broke, by claim."""
    wanted = list(claims()) if ids is None else list(ids)
    raw: dict[str, Finding] = {}
    broken: dict[str, str] = {}
    with _one_thread_each(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_tested, i) for i in wanted]):
            id, finding, problem, seconds = future.result()
            if finding is None:
                broken[id] = problem
            else:
                raw[id] = finding
            progress(id, finding, seconds)
    findings = corrected(raw, {i: claims()[i].family for i in raw})
    return {i: findings[i] for i in wanted if i in findings}, broken


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """New processes multiply matrices with one thread: several would compete, and round in another order."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def reproduce(id: str, out: Path) -> Finding:
    """Test one claim (with its family, whose p values are corrected together) and write what it found into a folder.

    verdict.json, data.csv and data.parquet.  Raises UserError for an unknown claim or a folder that cannot be written.
    """
    if id not in claims():
        raise unknown_name("claim", id, claims())
    family = claims()[id].family
    together = [i for i, one in claims().items() if i == id or (family and one.family == family)]
    findings = corrected({i: claims()[i].run() for i in together}, {i: claims()[i].family for i in together})
    write(id, findings[id], out)
    return findings[id]


def write(id: str, finding: Finding, out: Path) -> None:
    """verdict.json, data.csv and data.parquet of a finding.  Raises UserError if the folder cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_data(finding, out)
        one = claims()[id]
        said = {"paper": one.paper, "place": one.place, "statement": one.statement, "threshold": one.threshold}
        write_json(out / "verdict.json", {**vars(entry(id, finding)), **said, "theirs": one.theirs})
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another folder with --out.") from error


def _write_data(finding: Finding, out: Path) -> None:
    if not finding.data:
        return
    import pyarrow as pa
    from pyarrow import csv, parquet

    columns = {name: np.asarray(values) for name, values in finding.data.items()}
    longest = max(c.size for c in columns.values())
    table = pa.table({name: _column(c.reshape(-1), longest, pa) for name, c in columns.items()})
    with replacing(out / "data.csv") as file:
        csv.write_csv(table, file)
    with replacing(out / "data.parquet") as file:
        parquet.write_table(table, file)


def _column(values: Any, longest: int, pa: Any) -> Any:
    """Columns of different lengths stand side by side, the shorter ones with empty cells below."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
    array = pa.array(values)
    return pa.concat_arrays([array, pa.nulls(longest - len(array), array.type)]) if len(array) < longest else array

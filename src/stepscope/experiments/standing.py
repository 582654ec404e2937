"""How a dissection stands while it is still being computed: read from its folder, by whoever watches, without torch.

Nothing here decides anything: step sizes are judged, and effects computed, by the functions that the dissection itself
uses, from the trials that are finished by now.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepscope.errors import DamagedData
from stepscope.experiments.effects import Contrast, Outcome, comparisons, effects
from stepscope.experiments.shard import is_at_work
from stepscope.experiments.tuning import Tried, best, edge, judge

__all__ = ["Arm", "Point", "Replication", "Standing", "standing"]

TUNING_SEED = 1000  # and above: a trial of the search; a test compares it with the plan's
CELLS = ("msgd", "mssd", "msvag")
MATCHED = "adam_one_beta"


@dataclass(frozen=True)
class Point:
    """A step size that was tried.  status: ok, unstable, diverged or failed; score: higher is better."""

    lr: float
    status: str
    score: float | None
    train_loss: float | None


@dataclass(frozen=True)
class Replication:
    """A finished run at the chosen step size, with its evaluations: lists of steps, training losses and test values."""

    seed: int
    lr: float
    status: str
    trial: str
    recorded: bool
    steps: list[int]
    train_loss: list[float | None]
    test: list[float | None]


@dataclass(frozen=True)
class Arm:
    """One method as far as it is.  best: the best step size so far.  at_edge: it is the smallest or largest tried."""

    method: str
    points: list[Point]
    best: float | None
    at_edge: bool
    replications: list[Replication]


@dataclass(frozen=True)
class EffectLine:
    """What an ingredient did to an outcome, by the seeds for which all four methods are there.

    effect: sign, variance_adaptation or interaction, with `cell` in the place of Adam; or the name of a method, which
    is then compared with the method `cell`.
    """

    cell: str
    outcome: str
    effect: str
    scale: str
    estimate: float | None
    low: float | None
    high: float | None
    seeds: int
    verdict: str


@dataclass(frozen=True)
class Standing:
    """A dissection now.

    status: running, finished or interrupted.  done, total: trials; total is what the settings plan, at most.
    working: trials at work.  seconds_left: by the mean of the finished trials; None where nothing tells.
    metric: what `test` in the replications is.  problems: files that could not be read.
    """

    problem: str
    status: str
    done: int
    total: int
    working: int
    seconds_left: float | None
    metric: str
    arms: list[Arm]
    effects: list[EffectLine]
    problems: list[str]


def standing(folder: Path, now: float | None = None) -> Standing:
    """What the folder of a dissection says by now.  now: seconds since 1970.

    Raises: DamagedData if its settings cannot be read.
    """
    problems: list[str] = []
    settings = _read(folder / "dissect.json", problems)
    if settings is None:
        raise DamagedData(f"{problems[0]}: the settings of this dissection cannot be read.")
    is_finished = (folder / "results.json").is_file()
    is_running = not is_finished and is_at_work(folder)
    names = sorted(os.listdir(folder / "trials")) if (folder / "trials").is_dir() else []  # noqa: PTH208 - polled
    trials, seconds = [], []
    for name in (name for name in names if not name.startswith(".")):
        result = _read(folder / "trials" / name / "result.json", problems)
        if isinstance(result, dict) and isinstance(result.get("config"), dict):
            trials.append((name, result))
        timing = _read(folder / "trials" / name / "timing.json", [])
        if isinstance(timing, dict) and isinstance(timing.get("seconds"), int | float):
            seconds.append(float(timing["seconds"]))
    attempts = [folder / "trials" / name for name in names if name.startswith(".")] if is_running else []
    methods = list(dict.fromkeys([*_planned(settings), *(str(t["config"].get("method")) for _, t in trials)]))
    total = len(trials) if is_finished else max(_total(settings, methods), len(trials) + len(attempts))
    arms = [_arm(method, trials, settings) for method in methods]
    return Standing(
        problem=str(settings.get("problem", "")),
        status="finished" if is_finished else "running" if is_running else "interrupted",
        done=len(trials),
        total=total,
        working=len(attempts),
        seconds_left=_left(total - len(trials), seconds, attempts, time.time() if now is None else now),
        metric="metric" if _has_metric(trials) else "loss",
        arms=arms,
        effects=_effects(trials, settings),
        problems=problems,
    )


def _read(file: Path, problems: list[str]) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        problems.append(f"{file.parent.name}/{file.name} is missing ({error.strerror})")
    except (OSError, ValueError) as error:
        problems.append(f"{file.parent.name}/{file.name} cannot be read ({error})")
    return None


def _planned(settings: Mapping[str, Any]) -> list[str]:
    """The methods, as far as the settings name them; those of the paper and Adam with one beta otherwise."""
    named = settings.get("methods")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        return named
    return [*CELLS, "adam", MATCHED]


def _total(settings: Mapping[str, Any], methods: Sequence[str]) -> int:
    grid, seeds = settings.get("grid") or {}, len(settings.get("seeds") or ())
    budget = int(settings.get("budget") or 0)
    tuning = {method: len(grid[method]) if method in grid else budget for method in methods}
    return sum((0 if method in grid and count == 1 else count) + seeds for method, count in tuning.items())


def _left(todo: int, seconds: Sequence[float], attempts: Sequence[Path], now: float) -> float | None:
    """Seconds until all trials are done, if as many as now stay at work and each takes the mean time."""
    if not attempts or not seconds or todo <= 0:
        return None
    mean = sum(seconds) / len(seconds)
    spent = 0.0
    for attempt in attempts:
        try:
            spent += min(mean, max(0.0, now - attempt.stat().st_ctime))
        except OSError:  # finished in this moment
            spent += mean
    return max(0.0, todo * mean - spent) / len(attempts)


def _is_tuning(result: Mapping[str, Any]) -> bool:
    return int(result["config"].get("seed", 0)) >= TUNING_SEED


def _arm(method: str, trials: Sequence[tuple[str, Mapping[str, Any]]], settings: Mapping[str, Any]) -> Arm:
    own = [(name, result) for name, result in trials if result["config"].get("method") == method]
    select, higher = settings.get("select", "validation"), _higher_is_better(settings)
    tried: dict[float, Tried] = {}
    for _, result in own:
        if _is_tuning(result):
            tried[float(result["config"]["lr"])] = judge(result["evaluations"], result["status"], select, higher)
    chosen = best(tried) if any(outcome.stable for outcome in tried.values()) else None
    points = [Point(lr, one.status, one.score, one.train_loss) for lr, one in sorted(tried.items())]
    runs = [_replication(name, result) for name, result in own if not _is_tuning(result)]
    if chosen is None and runs:
        chosen = runs[0].lr
    at_edge = chosen is not None and chosen in tried and edge(tried, chosen) is not None
    return Arm(method, points, chosen, at_edge, sorted(runs, key=lambda run: run.seed))


def _replication(name: str, result: Mapping[str, Any]) -> Replication:
    found, config = result["evaluations"], result["config"]
    test = [point.get("test_loss") if point.get("test_metric") is None else point["test_metric"] for point in found]
    return Replication(
        seed=int(config["seed"]),
        lr=float(config["lr"]),
        status=str(result["status"]),
        trial=name,
        recorded=bool(config.get("record_every")),
        steps=[int(point["step"]) for point in found],
        train_loss=[point.get("train_loss") for point in found],
        test=test,
    )


def _has_metric(trials: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    return any(point.get("test_metric") is not None for _, result in trials for point in result["evaluations"])


def _higher_is_better(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("higher_is_better", True))


def _effects(trials: Sequence[tuple[str, Mapping[str, Any]]], settings: Mapping[str, Any]) -> list[EffectLine]:
    """The effects by what is there; none before one seed has all methods that an effect is about."""
    methods = _planned(settings)
    final: dict[str, dict[int, Mapping[str, Any] | None]] = {method: {} for method in methods}
    for _, result in trials:
        method = result["config"].get("method")
        if method in final and not _is_tuning(result):
            is_ok = result["status"] == "ok" and result["evaluations"]
            final[method][int(result["config"]["seed"])] = result["evaluations"][-1] if is_ok else None

    def shared(names: Sequence[str]) -> bool:
        return bool(set.intersection(*(set(final[name]) for name in names)))

    outcomes = _outcomes(final, settings)
    is_square = {*CELLS, "adam"} <= set(methods)
    squares = [cell for cell in ("adam", MATCHED) if is_square and cell in methods and shared([*CELLS, cell])]
    lines = [_line(cell, one.effect, one) for cell in squares for out in outcomes for one in effects(out, cell)]
    others = [m for m in methods[1:] if not is_square or m not in {*CELLS, "adam", MATCHED}]
    others = [method for method in others if shared([methods[0], method])]
    pairs = [pair for out in outcomes for pair in comparisons(out, others, methods[0])] if others else []
    return lines + [_line(pair.baseline, pair.method, pair) for pair in pairs]


def _outcomes(
    final: Mapping[str, Mapping[int, Mapping[str, Any] | None]], settings: Mapping[str, Any]
) -> list[Outcome]:
    def values(column: str) -> dict[str, dict[int, float | None]]:
        return {
            method: {seed: None if end is None else end.get(column) for seed, end in runs.items()}
            for method, runs in final.items()
        }

    training = Outcome("train_loss", "loss", False, values("train_loss"))
    metric = values("test_metric")
    known = [value for runs in metric.values() for value in runs.values() if value is not None]
    if known:
        is_share = all(0 <= value <= 1 for value in known)
        return [training, Outcome("test_metric", "metric", _higher_is_better(settings), metric, is_share)]
    return [training, Outcome("test_loss", "loss", False, values("test_loss"))]


def _line(cell: str, name: str, effect: Contrast) -> EffectLine:
    return EffectLine(
        cell,
        effect.outcome.name,
        name,
        effect.outcome.scale,
        effect.estimate,
        effect.low,
        effect.high,
        len(effect.per_seed),
        effect.verdict,
    )

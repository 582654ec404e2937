"""From finished trials to results.json, schema "stepscope.dissection/1". Equal trials give equal bytes."""

import shlex
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stepscope import store
from stepscope.experiments import wording
from stepscope.experiments.arms import FOUR, formula, is_adapted, is_signed, label
from stepscope.experiments.effects import Comparison, Contrast, Effect, Outcome, comparisons, effects
from stepscope.experiments.folder import Folder
from stepscope.experiments.plan import Arm, Plan, Results, is_tuning
from stepscope.experiments.tuning import edge

__all__ = ["SCHEMA", "assemble", "outcomes", "recording"]

SCHEMA: Final = "stepscope.dissection/1"
MATCHED: Final = "adam_one_beta"
MOST_STEPS: Final = 200

REASONS: Final = {
    "validation": "Step sizes were chosen by their best validation result: part of the training examples was held out "
    "for that, and the test examples played no part.",
    "paper": "Step sizes were chosen by their best test result, as in Balles and Hennig (2018), so the test results "
    "are a little too good for all methods.",
}


def assemble(plan: Plan, arms: Sequence[Arm], results: Results, folder: Folder) -> dict[str, Any]:
    """Everything a report needs. Holds nothing that changes from one run of the same sweep to the next."""
    measured = outcomes(plan, arms, results)
    square = set(FOUR) <= set(plan.methods)
    paper = [effect for outcome in measured for effect in effects(outcome, "adam")] if square else []
    has_match = square and MATCHED in plan.methods
    matched = [effect for outcome in measured for effect in effects(outcome, MATCHED)] if has_match else []
    # What the square does not speak of is compared with the method that was named first.
    others = [m for m in plan.methods[1:] if not square or (m not in FOUR and m != MATCHED)]
    pairs = [pair for outcome in measured for pair in comparisons(outcome, others, plan.methods[0])] if others else []
    said = [wording.headline(plan.problem.name, paper)] if square else []
    said += [wording.compared(plan.problem.name, pairs)] if pairs else []
    environment = folder.environment
    return {
        "schema": SCHEMA,
        "problem": _problem(plan),
        "settings": {
            "select": plan.select,
            "select_reason": REASONS[plan.select],
            "seeds": list(plan.seeds),
            "tuning_seeds": sorted({trial.seed for arm in arms for trial in arm.done if is_tuning(trial)}),
            "budget": plan.budget,
            "beta": plan.beta,
            "profile": plan.profile,
            "loss_evaluation_examples": min(plan.train_examples, plan.test_examples),
        },
        "arms": [_arm(arm, results, square) for arm in arms],
        "effects": [_effect(effect) for effect in [*paper, *matched]],
        **({"comparisons": [_comparison(pair) for pair in pairs]} if pairs else {}),
        "verdict": {
            "headline": " ".join(said),
            "sentences": [*map(wording.sentence, paper), *map(wording.comparison, pairs)],
            "adam_cells": wording.adam_cells(paper, matched) if has_match else "",
        },
        "dissection": {
            arm.method: recording(store.Run(folder.trials / trial.id / "run"))
            for arm in arms
            for trial in arm.replications
            # A trial that was taken up from a kept run brings no record.
            if trial.record_every and (folder.trials / trial.id / "run").is_dir()
        },
        "environment": environment,
        "command": shlex.join(environment["command"]),
    }


def outcomes(plan: Plan, arms: Sequence[Arm], results: Results) -> list[Outcome]:
    """What the effects are about: the final training loss, and the final test metric, or test loss without a metric."""

    def final(arm: Arm, column: str) -> dict[int, float | None]:
        runs = {trial.seed: results[trial.id] for trial in arm.replications}
        return {seed: run["evaluations"][-1][column] if run["status"] == "ok" else None for seed, run in runs.items()}

    def values(column: str) -> dict[str, dict[int, float | None]]:
        return {arm.method: final(arm, column) for arm in arms}

    training = Outcome("train_loss", "loss", False, values("train_loss"))
    if metric := plan.problem.metric:
        return [
            training,
            Outcome("test_metric", metric.name, metric.higher_is_better, values("test_metric"), metric.is_share),
        ]
    return [training, Outcome("test_loss", "loss", False, values("test_loss"))]


def recording(run: store.Run) -> dict[str, Any]:
    """A recorded run, thinned to at most 200 steps (the first and the last stay) and 6 significant digits."""
    names = sorted(run.names)  # their own order depends on when rows were flushed
    table = run.table(*names)
    columns = {name: table[name].to_numpy() for name in names}
    layers = np.asarray(table["layer"].to_pylist(), dtype=str)
    steps = table["step"].to_numpy()
    recorded = np.unique(steps[layers != ""])
    if len(recorded) > MOST_STEPS:
        recorded = recorded[np.linspace(0, len(recorded) - 1, MOST_STEPS).round().astype(int)]
    series = {}
    for layer in run.layers:
        rows = np.flatnonzero(layers == layer)
        place = dict(zip(steps[rows].tolist(), rows.tolist(), strict=True))
        found = {
            name: [_six_digits(column[place[step]]) if step in place else None for step in recorded.tolist()]
            for name, column in columns.items()
        }
        series[layer] = {name: values for name, values in found.items() if any(value is not None for value in values)}
    return {"layers": list(run.layers), "steps": recorded.tolist(), "series": series}


def _six_digits(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _problem(plan: Plan) -> dict[str, Any]:
    problem, protocol = plan.problem, plan.problem.protocol
    return {
        "name": problem.name,
        "description": problem.description,
        "parameters": sum(parameter.numel() for parameter in problem.model(0).parameters() if parameter.requires_grad),
        "train_examples": plan.train_examples,
        "validation_examples": plan.validation_examples,
        "test_examples": plan.test_examples,
        "steps": plan.steps,
        "batch_size": protocol.batch_size,
        "evaluate_every": protocol.evaluate_every,
        "metric": problem.metric.name if problem.metric else None,
        "higher_is_better": plan.higher_is_better,
        "metric_is_share": plan.problem.metric is not None and plan.problem.metric.is_share,
    }


def _arm(arm: Arm, results: Results, square: bool) -> dict[str, Any]:
    return {
        "method": arm.method,
        "label": label(arm.method),
        "formula": formula(arm.method),
        "sign": is_signed(arm.method),
        "variance_adaptation": is_adapted(arm.method),
        "role": "matched" if square and arm.method == MATCHED else "cell" if square and arm.method in FOUR else "other",
        "lr": arm.lr,
        "lr_at_edge": None if arm.lr is None else edge(arm.tried, arm.lr),
        "tuning": [
            {"lr": lr, "status": outcome.status, "score": outcome.score, "train_loss": outcome.train_loss}
            for lr, outcome in sorted(arm.tried.items())
        ],
        "runs": [
            {
                "seed": trial.seed,
                "status": results[trial.id]["status"],
                "evaluations": results[trial.id]["evaluations"],
                "trial": trial.id,
                "recorded": trial.record_every > 0,
            }
            for trial in arm.replications
        ],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    named = {"adam_cell": effect.adam_cell, "effect": effect.effect}
    return named | _contrast(effect) | {"sentence": wording.sentence(effect)}


def _comparison(pair: Comparison) -> dict[str, Any]:
    named = {"method": pair.method, "baseline": pair.baseline}
    return named | _contrast(pair) | {"sentence": wording.comparison(pair)}


def _contrast(effect: Contrast) -> dict[str, Any]:
    return {
        "outcome": effect.outcome.name,
        "scale": effect.outcome.scale,
        "estimate": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p": effect.p,
        "p_holm": effect.p_holm,
        "seeds": len(effect.per_seed),
        "per_seed": list(effect.per_seed),
        "verdict": effect.verdict,
    }

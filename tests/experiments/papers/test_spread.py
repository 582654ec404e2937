"""The dots of Eigen's figures against a loop by hand, and his sentences on made-up dots whose answer is known."""

import dataclasses

import numpy as np
import pytest
import torch

from stepscope import problems
from stepscope.experiments.claims.claim import Verdict
from stepscope.experiments.papers import spread
from stepscope.experiments.papers.experiment import Extent
from stepscope.experiments.papers.reproduce import read, reproduce
from stepscope.experiments.trial import batches, divide

ID = "eigen2025_fig1"


def dots(mean, step, sigma, gamma) -> dict[str, list[float]]:
    numbers = list(range(1, len(step) + 1))
    columns = {"step_number": numbers, "mean": mean, "step": step, "sigma": sigma, "spread": gamma}
    return {name: np.asarray(values, float).tolist() for name, values in columns.items()}


def made(adam, sgd, extent=""):
    def arm(batch, method, lr, loss, found):
        told = {"batch": batch, "method": method, "lr": lr, "seed": 0, "status": "ok", "step": [0, 100]}
        return told | {"train_loss": [2.0, loss], "test_loss": [2.0, loss], "test_metric": [0.1, 0.5], "dots": found}

    arms = [
        arm(batch, method, lr, loss, found)
        for batch in (16, 100)
        for method, found in (("adam", adam), ("sgd", sgd))
        for lr, loss in ((0.1, 0.5), (1.0, 0.9))
    ]
    return {"experiment": ID, "profile": "paper", "extent": extent, "steps": 100, "arms": arms}


def as_he_says() -> tuple[dict, dict]:
    """Adam: spread goes up and down, the step follows the curve, the mean gradient is anything. SGD: step = mean."""
    rng = np.random.default_rng(0)
    t = np.arange(300)
    gamma = np.exp(0.5 * np.sin(t / 7) + 0.05 * rng.standard_normal(300)) * 3
    mean = np.exp(rng.standard_normal(300))
    adam = dots(mean, 1 / np.sqrt(1 + gamma**2), np.full(300, 1e-2), gamma)
    falling = np.exp(-t / 60)
    return adam, dots(falling, 30 * falling, np.full(300, 1e-2), np.exp(rng.standard_normal(300)))


def verdicts(stored) -> dict[str, Verdict]:
    return {id.split("-", 2)[2]: found.verdict for id, found in read(stored).findings.items()}


def test_where_all_is_as_the_note_says_its_sentences_hold():
    """But for the one about the reading of the spread: the curve is that of sigma/|m|."""
    found = verdicts(made(*as_he_says()))
    assert found.pop("which-spread") is Verdict.FAILS
    assert set(found.values()) == {Verdict.HOLDS}


def test_where_adam_s_step_is_its_mean_gradient_they_fail():
    _, sgd = as_he_says()
    found = verdicts(made(sgd, sgd))
    assert found["no-relation-to-mean"] is found["oscillation"] is found["on-the-curve"] is Verdict.FAILS
    assert found["steps-do-not-shrink"] is Verdict.FAILS


def test_a_fraction_indicates_and_without_a_stable_run_nothing_is_decided():
    stored = made(*as_he_says(), extent="a fifth")
    assert set(verdicts(stored).values()) == {Verdict.INDICATES}
    broken = made(*as_he_says())
    for arm in broken["arms"]:
        arm["status"] = "diverged" if arm["batch"] == 16 and arm["method"] == "adam" else "ok"
    assert read(broken).findings["eigen-fig1-oscillation"].verdict is Verdict.UNDECIDED


def test_what_is_not_trained_yet_cannot_be_tested():
    stored = made(*as_he_says(), extent="so far 6 of 8 runs")
    stored["arms"] = [arm for arm in stored["arms"] if (arm["batch"], arm["method"]) != (100, "sgd")]
    found = verdicts(stored)
    assert found["sgd-step-is-mean"] is Verdict.CANNOT
    assert found["oscillation"] is Verdict.INDICATES


def test_the_step_size_with_the_smallest_final_training_loss_is_shown():
    panels = read(made(*as_he_says())).figure.panels
    assert panels[0].series[0].label == "Adam, lr 0.1"
    assert len(panels) == 24  # four for each batch size and method


def test_the_dots_are_those_of_a_loop_by_hand(built_in, here, tmp_path, monkeypatch):
    """Float32 averages of at most 100 coordinates: they agree to some 1e-6, and are kept with 4 digits."""
    monkeypatch.setattr(spread, "BATCHES", dict.fromkeys((4, 8), built_in("pictures")))
    grid = {"adam": (1e-2,), "adam_printed": (1e-2,), "sgd": (0.1,)}
    extent = Extent(5, 1, 5, 12, spread.METHODS, grid=grid, note="A fraction of it")
    experiment = dataclasses.replace(spread.EXPERIMENTS[ID], profiles={"small": extent})
    monkeypatch.setattr("stepscope.experiments.papers.reproduce.EXPERIMENTS", {ID: experiment})
    done = reproduce(ID, "small", tmp_path / "out", executor=here)
    assert len(here.ran) == 6
    arm = next(arm for arm in done.stored["arms"] if (arm["batch"], arm["method"]) == (8, "adam"))
    assert arm["dots"]["step_number"] == [1, 2, 3, 4, 5]

    printed = next(arm for arm in done.stored["arms"] if (arm["batch"], arm["method"]) == (8, "adam_printed"))
    # Without bias correction the first step is 0.01 |g| / sqrt(0.01 g^2) = 0.1 where there is a gradient; with it, 1.
    assert printed["dots"]["step"][0] == pytest.approx(0.1 * arm["dots"]["step"][0], rel=1e-3)

    problem = problems.load("pictures")
    train, model = problem.data().train, problem.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.99, 0.99))
    names = dict(model.named_parameters())
    averages = {name: (torch.zeros_like(names[name]), torch.zeros_like(names[name])) for name in spread.LAYERS}
    fit = divide(problem.data(), 0)["fit"]
    assert len(fit) == len(train)
    order = batches(len(fit), 8, 0)
    for t in range(1, 6):
        index = next(order)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(fit.inputs[index]), fit.targets[index]).backward()
        before = {name: names[name].detach().clone() for name in spread.LAYERS}
        optimizer.step()
        rows = []
        for name, (m, v) in averages.items():
            g = names[name].grad
            m.mul_(0.99).add_(g, alpha=0.01)
            v.mul_(0.99).addcmul_(g, g, value=0.01)
            mean, second = m / (1 - 0.99**t), v / (1 - 0.99**t)
            step = (names[name].detach() - before[name]).abs().mean() / 1e-2
            rows.append([mean.abs().mean().item(), step.item(), (second - mean**2).clamp(min=0).sqrt().mean().item()])
        expected = np.mean(rows, axis=0)
        found = [arm["dots"][name][t - 1] for name in ("mean", "step", "sigma")]
        # At t = 1 v = m^2: sigma is rounding, of the size of float32's for numbers like m^2.
        assert found[:2] == pytest.approx(expected[:2], rel=2e-4)
        assert found[2] == pytest.approx(expected[2], rel=2e-3, abs=1e-4 * expected[0] if t > 1 else expected[0] * 1e-3)

    here.tasks, ran = [], list(here.ran)
    assert reproduce(ID, "small", tmp_path / "out", executor=here).stored["arms"]
    assert here.ran == ran

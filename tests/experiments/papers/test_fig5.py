"""The sentences of Section 6.2 on made-up curves whose answer is known, the figure, and a run from end to end."""

import dataclasses
import json

import numpy as np
import pytest

from stepscope.errors import UserError
from stepscope.experiments.claims.claim import Verdict
from stepscope.experiments.claims.figure import Band, Line
from stepscope.experiments.papers import fig5
from stepscope.experiments.papers.curves import Curves, above, same, so_far
from stepscope.experiments.papers.experiment import Extent
from stepscope.experiments.papers.reproduce import EXPERIMENTS, read, reproduce

STEPS = [0, 10, 50, 100]


def made(number: int, final: dict[str, float], *, noise: float = 0.02, seeds: int = 5, extent: str = "", **more):
    """Curves that fall from loss 2 to the given final one, with noise that the methods of a seed do not share."""
    rng = np.random.default_rng(number)
    accuracy = more.get("accuracy", {})
    arms = []
    for method, loss in final.items():
        runs = []
        for seed in range(seeds):
            curve = [2.0, *more.get("early", {}).get(method, (1.5, 1.0)), loss]
            losses = [value * float(np.exp(noise * rng.standard_normal())) for value in curve]
            metrics = [0.1, 0.5, 0.7, accuracy.get(method, 0.9) + 0.001 * float(rng.standard_normal())]
            runs.append({"seed": seed, "status": "ok", "step": STEPS, "train_loss": losses, "train_metric": metrics,
                         "test_loss": losses, "test_metric": metrics})  # fmt: skip
        arms.append(
            {"method": method, "label": method.upper(), "lr": 0.1, "lr_at_edge": None, "tuning": [], "runs": runs}
        )
    id = f"balles2018_fig5_p{number}"
    return {"experiment": id, "profile": "paper", "extent": extent, "steps": 100, "arms": arms}


def verdicts(stored) -> dict[str, Verdict]:
    return {id.split("-", 2)[2]: found.verdict for id, found in read(stored).findings.items()}


AS_THE_PAPER = {
    1: made(1, {"msgd": 0.10, "msvag": 0.09, "mssd": 0.021, "adam": 0.02}),
    2: made(
        2,
        {"msgd": 0.05, "msvag": 0.045, "mssd": 0.2, "adam": 0.19},
        early={"mssd": (0.5, 0.25), "adam": (0.5, 0.25), "msgd": (1.5, 0.8), "msvag": (1.5, 0.8)},
    ),
    3: made(
        3,
        {"msgd": 0.2, "msvag": 0.12, "mssd": 0.021, "adam": 0.02},
        accuracy={"msgd": 0.75, "msvag": 0.76, "mssd": 0.7, "adam": 0.7},
    ),
    4: made(4, {"msgd": 1.3, "msvag": 0.7, "mssd": 1.5, "adam": 1.45}, accuracy={"mssd": 0.5, "adam": 0.5}),
}


@pytest.mark.parametrize("number", AS_THE_PAPER)
def test_where_all_is_as_the_paper_says_every_sentence_holds(number):
    """But for P4's domination by the sign: the paper takes P4 out of its first observation."""
    found = verdicts(AS_THE_PAPER[number])
    found.pop("sign-dominates") if number == 4 else None
    assert set(found.values()) == {Verdict.HOLDS}


@pytest.mark.parametrize("number", [1, 3])
def test_where_the_groups_change_places_the_sentences_about_the_sign_fail(number):
    turned = made(number, {"msgd": 0.02, "msvag": 0.021, "mssd": 0.10, "adam": 0.11})
    assert verdicts(turned)["sign-better"] is Verdict.FAILS
    assert verdicts(turned)["clusters"] is Verdict.HOLDS  # they cluster all the same


def test_where_only_variance_adaptation_matters_nothing_clusters_and_the_sign_does_not_dominate():
    found = verdicts(made(1, {"msgd": 0.1, "msvag": 0.01, "mssd": 0.1, "adam": 0.01}))
    assert found["clusters"] is found["sign-dominates"] is found["adam-like-mssd"] is Verdict.FAILS
    assert found["msvag-not-worse"] is Verdict.HOLDS


def test_noise_leaves_it_undecided_and_says_what_would_decide():
    stored = made(1, {"msgd": 0.1, "msvag": 0.1, "mssd": 0.1, "adam": 0.1}, noise=1.0, seeds=3)
    findings = read(stored).findings
    assert findings["balles-p1-sign-better"].verdict in (Verdict.UNDECIDED, Verdict.FAILS)
    assert findings["balles-p1-adam-like-mssd"].verdict is Verdict.UNDECIDED
    assert findings["balles-p1-adam-like-mssd"].condition == "more seeds"


def test_a_run_that_diverged_does_not_count_and_one_seed_decides_nothing():
    stored = made(1, {"msgd": 0.10, "msvag": 0.09, "mssd": 0.021, "adam": 0.02}, seeds=2)
    stored["arms"][0]["runs"][1]["status"] = "diverged"
    assert Curves(stored).paired("train_loss", ("msgd", "adam"))[1:] == []
    finding = read(stored).findings["balles-p1-clusters"]
    assert finding.verdict is Verdict.UNDECIDED
    assert "two seeds" in finding.condition


@pytest.mark.parametrize("number", AS_THE_PAPER)
def test_a_fraction_only_indicates(number):
    stored = {**AS_THE_PAPER[number], "extent": "a tenth of the steps"}
    findings = read(stored).findings.values()
    assert {one.verdict for one in findings} == {Verdict.INDICATES}
    assert all("a tenth of the steps" in one.measured for one in findings)
    assert sum("for the sentence" in one.measured for one in findings) >= len(findings) - 1


def test_intervals_are_students():
    """Mean 2 of 1, 2, 3: 2 +- 4.3027/sqrt(3), from a table."""
    found = above([1.0, 2.0, 3.0], "x", threshold=0.5)
    assert found.interval == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert found.verdict is Verdict.UNDECIDED
    assert above([1.0, 1.1, 0.9], "x").verdict is Verdict.HOLDS
    assert above([1.0, 1.1, 0.9], "x", threshold=2.0).verdict is Verdict.FAILS
    assert same([0.01, -0.01, 0.0], 0.1, "x").verdict is Verdict.HOLDS
    assert same([1.01, 0.99, 1.0], 0.1, "x").verdict is Verdict.FAILS


def test_the_figure_is_the_paper_s_mean_and_deviation_and_its_caption_says_what_is_fractional():
    stored = {**AS_THE_PAPER[1], "extent": "a tenth of the steps"}
    figure = read(stored).figure
    assert [panel.title for panel in figure.panels] == ["training loss", "test accuracy"]
    for panel, column in zip(figure.panels, ("train_loss", "test_metric"), strict=True):
        lines = [one for one in panel.series if isinstance(one, Line)]
        bands = [one for one in panel.series if isinstance(one, Band)]
        assert len(lines) == len(bands) == 4
        first = 0 if column == "train_loss" else 1  # accuracies start behind the first step
        table = np.array([run[column] for run in stored["arms"][0]["runs"]])[:, first:]
        np.testing.assert_allclose(lines[0].y, table.mean(0))
        np.testing.assert_allclose(bands[0].high - lines[0].y, table.std(0, ddof=1))
    assert figure.caption.endswith("a tenth of the steps.")
    assert "one standard deviation" in figure.caption


def test_every_profile_but_the_paper_s_says_what_is_fractional():
    for experiment in EXPERIMENTS.values():
        assert set(experiment.profiles) == {"paper", "small", "smoke"}
        assert experiment.profiles["paper"].note == ""
        for name in ("small", "smoke"):
            assert experiment.profiles[name].note.startswith("A fraction of ")


@pytest.fixture
def tiny_p1(built_in, monkeypatch) -> str:
    id = "balles2018_fig5_p1"
    monkeypatch.setattr(fig5, "PROBLEMS", {id: built_in("problem")})
    extent = Extent(6, 2, 3, 12, fig5.FOUR, grid=dict.fromkeys(fig5.FOUR, (0.1,)), note="A fraction of it: 6 steps")
    experiment = dataclasses.replace(EXPERIMENTS[id], profiles={"small": extent, "paper": extent})
    monkeypatch.setattr("stepscope.experiments.papers.reproduce.EXPERIMENTS", {id: experiment})
    monkeypatch.setattr(fig5, "EXPERIMENTS", {id: experiment})
    return id


def test_an_experiment_runs_resumes_and_is_drawn_again_without_training(tiny_p1, here, tmp_path):
    out = tmp_path / "out"
    plain, here.left = here.wait, 3

    def wait():
        if not here.left:
            raise KeyboardInterrupt
        here.left -= 1
        return plain()

    here.wait = wait
    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny_p1, "small", out, executor=here)
    here.left, before = 100, list(here.ran)
    done = reproduce(tiny_p1, "small", out, executor=here)
    assert len(before) == 3
    assert len(here.ran) == len(set(here.ran)) == 4 * 2
    assert {finding.verdict for finding in done.findings.values()} == {Verdict.INDICATES}
    runs = done.stored["arms"][0]["runs"]
    assert [run["step"] for run in runs] == [[0, 3, 6]] * 2
    results = json.loads((out / "dissection" / "results.json").read_text())
    assert runs[1]["test_loss"][-1] == pytest.approx(
        results["arms"][0]["runs"][1]["evaluations"][-1]["test_loss"], 1e-4
    )
    assert results["problem"]["test_examples"] == 12
    here.left = 0
    again = reproduce(tiny_p1, "small", out, executor=here)
    assert again.stored == json.loads(json.dumps(done.stored))
    assert json.loads((out / "verdicts.json").read_text())["extent"] == "A fraction of it: 6 steps"
    with pytest.raises(UserError, match="holds balles2018_fig5_p1 at profile small"):
        reproduce(tiny_p1, "paper", out, executor=here)


def test_what_an_interrupted_run_left_is_drawn_and_taken_up_elsewhere_without_training_it_again(
    tiny_p1, here, tmp_path
):
    """The whole run and the one in two places end in the same curves: five digits are kept, and rounded once."""
    whole = reproduce(tiny_p1, "small", tmp_path / "whole", executor=here).stored
    plain, here.left, here.ran = here.wait, 5, []

    def wait():
        if not here.left:
            raise KeyboardInterrupt
        here.left -= 1
        return plain()

    here.wait = wait
    with pytest.raises(UserError, match="holds no finished run of balles2018_fig5_p1 yet"):
        reproduce(tiny_p1, "small", tmp_path / "first", finished=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny_p1, "small", tmp_path / "first", executor=here)
    partial = reproduce(tiny_p1, "small", tmp_path / "first", finished=True)
    assert [len(arm["runs"]) for arm in partial.stored["arms"]] == [1, 1, 1, 2]  # seed by seed, the latest first
    assert partial.stored["extent"] == "A fraction of it: 6 steps, so far 5 of 8 runs"
    assert "Mean over 1 to 2 of 2 seeds" in partial.figure.caption
    kept = json.loads((tmp_path / "first" / "curves-so-far.json").read_text())

    here.left, here.ran, here.tasks = 100, [], []
    second = reproduce(tiny_p1, "small", tmp_path / "second", executor=here, take_up=kept).stored
    assert len(here.ran) == 3
    assert second["arms"] == whole["arms"]
    assert second["extent"] == "A fraction of it: 6 steps"
    assert second["taken_up"] == [kept["environment"]]
    with pytest.raises(UserError, match="at profile small, not of balles2018_fig5_p1 at paper"):
        reproduce(tiny_p1, "paper", tmp_path / "third", executor=here, take_up=kept)


def test_where_nothing_was_measured_a_fraction_indicates_nothing():
    stored = made(1, {"msgd": 0.1, "mssd": 0.02}, extent="so far two methods")
    findings = read(stored).findings
    assert findings["balles-p1-adam-like-mssd"].verdict is Verdict.CANNOT
    assert "so far two methods" in findings["balles-p1-clusters"].measured
    one_seed = made(1, dict.fromkeys(fig5.FOUR, 0.1), seeds=1, extent="so far one seed")
    assert {one.verdict for one in read(one_seed).findings.values()} == {Verdict.INDICATES}


def test_without_a_fraction_an_unfinished_run_only_indicates(tiny_p1):
    assert so_far("", 9, 50) == "A fraction of the protocol, so far 9 of 50 runs"
    assert so_far("", 50, 50) == ""


def test_an_unknown_experiment_or_profile_is_one_line(tmp_path):
    with pytest.raises(UserError, match="unknown experiment 'fig5'"):
        reproduce("fig5", "small", tmp_path)
    with pytest.raises(UserError, match="unknown profile 'large'"):
        reproduce("balles2018_fig5_p1", "large", tmp_path)

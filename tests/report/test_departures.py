"""Departures against what is known because it was made so, and against how often chance makes one."""

import math

import numpy as np
import pytest

from stepscope.errors import UserError
from stepscope.report.departures import compare, departures, needed, scatter
from stepscope.report.diffpage import first_words, lines, of_two
from stepscope.report.history import History
from stepscope.store import Run, RunWriter


def history(values, column="x"):
    values = np.atleast_2d(values)
    none = np.zeros(values.shape, bool)
    return History(column, np.arange(values.shape[1] + 1.0), values, values, values, none)


def test_scatter_is_the_noise_and_no_trend():
    """2000 normals: the median absolute second difference has a relative error of about 1.17 sqrt(3 / 2000) = 4.5 %,
    and the largest of three is above each; 20 % is four times that. A line or a parabola adds nothing visible."""
    noise = np.random.default_rng(0).normal(size=2000)
    steps = np.arange(2000)
    for trend in (0 * steps, 0.5 * steps, 1e-4 * steps**2):
        assert scatter(trend + 3 * noise) == pytest.approx(3, rel=0.2)
    assert scatter(2.0 * steps) < 1e-9
    assert scatter(np.array([1.0])) == 0


def test_noise_alone_departs_as_rarely_as_said():
    """200 comparisons of 50 series: two false ones are expected. The noise of a series is known to some percent only,
    which makes a false one up to three times as likely; more than 15 of six have a chance below 10^-3 (Poisson)."""
    dice = np.random.default_rng(1)
    threshold = needed(50, 100)
    false = 0
    for _ in range(200):
        a, b = (history(np.exp(0.3 * dice.normal(size=(50, 100)))) for _ in range(2))
        false += any(True for _ in departures(a, b, [str(n) for n in range(50)], threshold))
    assert false <= 15


def test_a_change_is_found_where_it_begins():
    """Half a standard deviation is not, five are, at the first stretch of it or one after."""
    dice = np.random.default_rng(2)
    a = dice.normal(size=(3, 100)) + 10
    b = dice.normal(size=(3, 100)) + 10
    b[1, 40:] += 0.5
    b[2, 60:] -= 12.0
    (found,) = departures(history(a), history(b), ["same", "little", "much"], needed(3, 100))
    assert (found.layer, found.column) == ("much", "x")
    assert 59 <= found.step <= 61
    assert found.b < found.a
    assert not found.relative


def test_runs_without_noise_depart_at_the_first_difference():
    values = np.geomspace(1, 2, 50)  # a straight line in logarithms
    other = values.copy()
    other[30:] *= 1.001
    (found,) = departures(history(values), history(other), ["a"], needed(1, 50))
    assert found.step == 30
    assert found.relative


def record(folder, change=None, seed=0, steps=300, **config):
    dice = np.random.default_rng(seed)
    with RunWriter(folder, config=config, tensors=[{"name": "w"}, {"name": "b"}]) as run:
        for step in range(1, steps + 1):
            noise = dice.normal(size=3)
            run.write(step, "w", {"size": math.exp(0.1 * noise[0]) * (3 if change and step >= change else 1)})
            run.write(step, "b", {"size": math.exp(0.1 * noise[1]), "other": 1.0})
            run.write(step, "", {"loss": 1 / step + (1e-9 if change and step == change - 100 else 0)})
    return Run(folder)


def test_two_runs_of_one_program(tmp_path):
    """They agree to the bit before step 100, where the loss differs in its ninth decimal; w departs at step 200."""
    found = of_two(record(tmp_path / "a", lr=0.1), record(tmp_path / "b", change=200, lr=0.3))
    assert found.first is not None
    assert (found.first.step, found.first.layer, found.first.column) == (100, "", "loss")
    assert found.first.b - found.first.a == pytest.approx(1e-9, rel=1e-6)
    (departure,) = found.departures
    assert (departure.layer, departure.column) == ("w", "size")
    assert 196 <= departure.step <= 202  # within a stretch of 2.5 steps
    assert departure.b / departure.a == pytest.approx(3, rel=0.2)
    assert found.settings == [("lr", "0.1", "0.3")]
    assert found.only == ([], [])
    told = list(lines(found))
    assert told[0] == "a and b, steps 1 to 300"
    assert told[1] == "  setting lr: 0.1 / 0.3"
    assert told[2] == "They agree bit for bit before step 100; first: loss of the run, 0.01 against 0.01."
    assert told[3].startswith(f"  from step {departure.step}: size of w, ")
    assert len(told) == 4
    plain = found.summary()
    assert plain["first_difference"]["step"] == 100
    assert plain["departures"][0]["layer"] == "w"


def test_the_same_run_twice_agrees_bit_for_bit(tmp_path):
    a, b = record(tmp_path / "a"), record(tmp_path / "b")
    found = compare(a, b, ("a", "b"))
    assert found.first is None
    assert found.departures == []
    assert first_words(found) == "They agree bit for bit in everything that was recorded of both."


def test_runs_of_different_length_and_layers_are_compared_where_they_meet(tmp_path):
    a = record(tmp_path / "a", steps=100)
    with RunWriter(tmp_path / "b") as run:
        for step in range(50, 200):
            run.write(step, "w", {"size": 1.0})
            run.write(step, "new", {"size": 1.0, "special": 2.0})
    found = compare(a, Run(tmp_path / "b"), ("a", "b"))
    assert found.span == (50, 100)
    assert found.layers == ("w",)
    assert found.only[0] == ["", "b"]
    assert found.only[1] == ["new"]


def test_what_cannot_be_compared_says_why(tmp_path):
    a = record(tmp_path / "a", steps=10)
    RunWriter(tmp_path / "empty").close()
    with pytest.raises(UserError, match=r"nothing was recorded in .*empty yet"):
        compare(a, Run(tmp_path / "empty"), ("a", "b"))
    for name, step, layer, text in (
        ("late", 99, "w", "they have none in common"),
        ("else", 5, "x", "no layer and column"),
    ):
        with RunWriter(tmp_path / name) as run:
            run.write(step, layer, {"size": 1.0})
        with pytest.raises(UserError, match=text):
            compare(a, Run(tmp_path / name), ("a", "b"))

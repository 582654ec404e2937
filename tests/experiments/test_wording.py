"""The sentences, word by word: they are what most people read."""

import pytest

from stepscope.experiments.effects import Outcome, effects
from stepscope.experiments.wording import adam_cells, headline, sentence

CELLS = ("msgd", "mssd", "msvag", "adam")


def make(rows, name="train_loss", unit="loss", higher_is_better=False, cell="adam"):
    methods = (*CELLS[:3], cell)
    values = {method: {seed: row[column] for seed, row in enumerate(rows)} for column, method in enumerate(methods)}
    return effects(Outcome(name, unit, higher_is_better, values, is_share=unit == "accuracy"), cell)


HALVED = [(1.0, 0.5, 1.01, 0.5), (2.0, 1.0, 2.0, 1.02), (3.0, 1.5, 3.0, 1.5), (1.0, 0.49, 1.0, 0.5)]
SAME = [(1.0, 1.01, 1.0, 0.99), (1.0, 1.0, 1.01, 1.0), (1.0, 0.99, 1.0, 1.0)]
OPEN = [(1.0, 0.5, 1.0, 2.0), (1.0, 2.0, 0.7, 0.5), (1.0, 1.3, 3.0, 1.0)]
BETTER = [(0.90, 0.950, 0.90, 0.951), (0.91, 0.958, 0.91, 0.961), (0.90, 0.953, 0.899, 0.95)]


def test_a_loss_that_falls():
    sign, _, _ = make(HALVED)
    assert sentence(sign) == (
        "Taking the sign lowers the final training loss by a factor 0.499 [0.493, 0.506] "
        "(95 % interval, 4 seeds, Holm-corrected p < 0.0001)."
    )


def test_a_metric_that_rises_is_told_in_points():
    sign, _, _ = make(BETTER, name="test_metric", unit="accuracy", higher_is_better=True)
    assert sentence(sign) == (
        "Taking the sign raises the final test accuracy by 5.07 points [4.75, 5.38] "
        "(95 % interval, 3 seeds, Holm-corrected p = 0.00062)."
    )


def test_a_metric_that_falls_keeps_its_interval_in_order():
    rows = [(b, a, d, c) for a, b, c, d in BETTER]
    sign, _, _ = make(rows, name="test_metric", unit="accuracy", higher_is_better=True)
    assert sentence(sign).startswith("Taking the sign lowers the final test accuracy by 5.07 points [4.75, 5.38] ")


def test_no_difference_names_its_margin():
    sign, adaptation, interaction = make(SAME)
    assert sentence(sign) == (
        "Taking the sign makes no difference to the final training loss: a factor 0.997 [0.990, 1.00], "
        "inside the 5 % that count as none (95 % interval, 3 seeds, Holm-corrected p = 0.54)."
    )
    assert sentence(adaptation).startswith("Adapting to the variance makes no difference")
    assert sentence(interaction).startswith("Sign and variance adaptation act independently on the final training loss")


def test_what_cannot_be_told_is_said_so():
    sign, _, interaction = make(OPEN)
    assert sentence(sign).startswith(
        "3 seeds cannot tell whether taking the sign changes the final training loss: a factor "
    )
    assert sentence(interaction).startswith(
        "3 seeds cannot tell whether sign and variance adaptation reinforce each other or interfere in the final"
    )


def test_rounding_errors_are_not_shown_as_numbers():
    rows = [(0.3, 0.1 + 0.3, 0.3, 0.1 + 0.3), (0.7, 0.6, 0.7, 0.6), (0.5, 0.5, 0.5, 0.5)]
    sign, _, _ = make(rows, name="test_metric", unit="accuracy", higher_is_better=True)
    assert 0 < abs(sign.estimate) < 1e-15
    assert "0.00 points [-24.8, 24.8]" in sentence(sign)


def test_one_seed_cannot_tell():
    sign, _, _ = make(HALVED[:1])
    assert (
        sentence(sign)
        == "One seed cannot tell whether taking the sign changes the final training loss (a factor 0.498)."
    )


def test_interaction_that_helps_reinforces_and_one_that_hurts_interferes():
    reinforcing = [(1.0, 0.9 + e, 0.9 - e, 0.4 + e) for e in (0.0, 0.01, 0.02)]
    interfering = [(1.0, 0.5 + e, 0.5 - e, 0.5 + e) for e in (0.0, 0.01, 0.02)]
    assert sentence(make(reinforcing)[2]).startswith(
        "Sign and variance adaptation reinforce each other: together they leave the final training loss at 0.5"
    )
    text = sentence(make(interfering)[2])
    assert text.startswith("Sign and variance adaptation interfere: together they leave the final training loss at 2")
    assert "times what their separate effects would give" in text
    points = make([(0.5, 0.6, 0.6, 0.9 - e) for e in (0.0, 0.01, 0.02)], "test_metric", "accuracy", True)
    assert "the final test accuracy 19.0 points [16.5, 21.5] above what their separate effects would give" in sentence(
        points[2]
    )


def test_seeds_that_were_left_out_are_named():
    rows = [*HALVED, (1.0, None, 1.0, 0.5), (1.0, 0.5, None, 0.5), (1.0, None, 1.0, 0.5)]
    assert sentence(make(rows)[0]).endswith(
        " M-SSD did not finish on seeds 4, 6; M-SVAG did not finish on seed 5: left out for all four methods."
    )


def test_a_method_without_a_stable_step_size_is_the_reason():
    values = {"msgd": {0: 1.0, 1: 1.0}, "mssd": {}, "msvag": {0: 1.0, 1: 1.0}, "adam": {0: 1.0, 1: 1.0}}
    sign = effects(Outcome("train_loss", "loss", False, values), "adam")[0]
    assert sentence(sign) == (
        "It cannot be told whether taking the sign changes the final training loss: "
        "no step size that was tried is stable for M-SSD."
    )


def test_a_method_that_finished_on_no_seed_is_the_reason():
    sign = make([(1.0, None, 1.0, 1.0), (1.0, None, 1.0, 1.0)])[0]
    assert sentence(sign) == (
        "It cannot be told whether taking the sign changes the final training loss: "
        "no seed finished with all four methods. M-SSD did not finish on seeds 0, 1: left out for all four methods."
    )


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            HALVED,
            "On digits, the sign is the ingredient that matters for the final training loss: it helps (a factor 0.499 "
            "[0.493, 0.506], 4 seeds, p < 0.0001), while variance adaptation makes next to no difference.",
        ),
        (
            SAME,
            "On digits, neither the sign nor variance adaptation makes more than a negligible difference to the final "
            "training loss.",
        ),
        (
            OPEN,
            "On digits, 3 seeds cannot tell whether the sign or variance adaptation matters for the final training "
            "loss.",
        ),
        (
            HALVED[:1],
            "On digits, 1 seed cannot tell whether the sign or variance adaptation matters for the final training "
            "loss.",
        ),
    ],
)
def test_the_headline_names_what_matters(rows, text):
    assert headline("digits", make(rows)) == text


def test_the_headline_names_both_ingredients_when_both_matter():
    rows = [(1.0, 0.5 + e, 2.0 + e, 1.0) for e in (0.0, 0.01, 0.02)]
    text = headline("digits", make(rows))
    assert text.startswith(
        "On digits, both ingredients matter for the final training loss: taking the sign helps (a factor 0.5"
    )
    assert "and adapting to the variance hurts (a factor 1.99 [" in text


def test_the_headline_says_when_the_two_depend_on_each_other():
    """Either ingredient alone hurts as much as it helps on top of the other: only the interaction is certain."""
    rows = [(1.0, 2.0 + e, 2.0 - e, 1.0 + e) for e in (-0.1, 0.05, 0.1)]
    assert headline("x", make(rows)).startswith(
        "On x, 3 seeds cannot tell whether the sign or variance adaptation matters for the final training loss, "
        "but the two reinforce each other (a factor 0.25"
    )


def test_the_headline_speaks_of_every_outcome():
    both = [*make(HALVED), *make(BETTER, name="test_metric", unit="accuracy", higher_is_better=True)]
    assert "; the sign is the ingredient that matters for the final test accuracy: it helps (5.07 points" in headline(
        "x", both
    )


def test_the_two_adam_cells_agree_or_what_differs_is_named():
    same = adam_cells(make(HALVED), make(HALVED, cell="adam_one_beta"))
    assert same == (
        "The paper's Adam also differs in beta2, the uncorrected variance and epsilon; with one beta and the corrected "
        "variance of Eq. 22 instead, the conclusion is the same."
    )
    other = adam_cells(make(HALVED), make(SAME, cell="adam_one_beta"))
    assert other.endswith("the conclusion differs in the sign for the final training loss (helps -> no difference).")

"""Which arms a dissection can have, and what it says about sets other than the five."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stepscope import optim
from stepscope.errors import UserError
from stepscope.experiments import Dissection
from stepscope.experiments.arms import FOUR, STANDARD, anchor, chosen, formula, is_adapted, is_signed, make, takes_beta
from stepscope.experiments.effects import Outcome, comparisons, holm, student
from stepscope.report import write
from stepscope.rules import Point

POINTS = ("m", "sign_m:erf_rho", "g:svag:batch", "lion", "m:one:two_emas:root_v:cautious")


@pytest.mark.parametrize("method", [*optim.METHODS, *POINTS])
def test_every_method_can_be_made_and_described(method: str) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = make(method, model, 0.5, 0.25 if takes_beta(method) else None)
    assert optimizer.param_groups[0]["lr"] == 0.5
    if takes_beta(method):
        assert optimizer.param_groups[0]["beta"] == 0.25
    assert formula(method)
    assert anchor(method) > 0


def test_the_square_is_signed_and_adapted_as_its_cells_say() -> None:
    assert [(is_signed(method), is_adapted(method)) for method in FOUR] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert formula("adam") == formula("adam_one_beta") == "lr · sign(m) · 1/√(1+η²)"
    assert formula("msvag") == "lr · m · 1/(1+ρη²)"


def test_points_are_named_in_their_shortest_spelling() -> None:
    assert chosen(["adam", Point("sign_m", "erf_rho"), "m:one:ema"]) == ("adam", "sign_m:erf_rho", "m")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["adam", "lino"], "unknown method 'lino': did you mean 'lion'"),
        (["adam", "sign_m:efr"], "unknown factor 'efr': did you mean 'erf'"),
        (["adam", "adam"], "adam is there twice"),
        (["m", "m:one"], "m is there twice"),
        (["adam"], "give two methods at least, to compare them, got adam"),
        (["adam", "m:one:ema:none:none:l2"], "a dissection has no weight decay"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(names: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        chosen(names)


def test_comparisons_are_paired_by_seed_and_corrected_together() -> None:
    """Against the definitions: differences within a seed, Student's t, Holm over the methods."""
    values: dict[str, dict[int, float | None]] = {
        "a": {0: 0.5, 1: 0.6, 2: 0.7},
        "b": {0: 0.6, 1: 0.71, 2: 0.79},
        "c": {0: 0.4, 1: None, 2: 0.75},
    }
    found = comparisons(Outcome("test_metric", "accuracy", True, values, is_share=True), ["b", "c"], "a")
    tests = [student([0.1, 0.11, 0.09]), student([-0.1, 0.05])]
    assert [one.estimate for one in found] == pytest.approx([test.mean for test in tests])
    assert [one.p for one in found] == pytest.approx([test.p for test in tests])
    assert [one.p_holm for one in found] == pytest.approx(holm([found[0].p or 0, found[1].p or 0]))
    assert [one.verdict for one in found] == ["helps", "cannot tell"]
    assert found[1].missing == {"c": (1,)}


def test_a_set_without_the_square_is_compared_with_its_first_method(small: Callable[..., Dissection]) -> None:
    found = small(points=POINTS)
    results = found.results
    assert [arm["method"] for arm in results["arms"]] == list(POINTS)
    assert {arm["role"] for arm in results["arms"]} == {"other"}
    assert results["effects"] == []
    pairs = [(pair["outcome"], pair["baseline"], pair["method"]) for pair in results["comparisons"]]
    assert pairs == [(o, "m", method) for o in ("train_loss", "test_loss") for method in POINTS[1:]] or pairs == [
        (o, "m", method) for o in ("train_loss", "test_metric") for method in POINTS[1:]
    ]
    assert "--methods m,sign_m:erf_rho,g:svag:batch,lion,m:one:two_emas:root_v:cautious" in results["command"]
    page = write(found.folder, found.folder / "report.html").read_text("utf-8")
    assert "Against m" in page
    assert "Two ingredients, four methods" not in page
    assert small(points=POINTS).results == results
    with pytest.raises(UserError, match="belongs to other settings"):
        small(points=POINTS[:3])


def test_the_square_with_more_methods_has_effects_and_comparisons(small: Callable[..., Dissection]) -> None:
    five: dict[str, Any] = small(out="five").results
    six = small(points=[*STANDARD, "adam_erf"], out="six")
    assert six.results["effects"] == five["effects"]
    assert "comparisons" not in five
    assert {pair["method"] for pair in six.results["comparisons"]} == {"adam_erf"}
    assert six.results["verdict"]["headline"].startswith(five["verdict"]["headline"])
    page = write(six.folder, six.folder / "report.html").read_text("utf-8")
    assert "Two ingredients, four methods" in page
    assert "Against M-SGD" in page

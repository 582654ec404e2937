"""What the template is filled with: sentences that follow from the settings, and the data to download."""

import base64
import json
from collections.abc import Iterator

import pytest
from tests.report.sample import make_results

from stepscope.report import context, panel
from stepscope.report.panes import Detail

LEAN = Detail(layers=1, dots=10)


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with panel.drawing():
        yield


def of(**options: object) -> dict[str, object]:
    results = make_results(**{"steps": 20, "layers": ("fc.weight",), **options})
    return context.of_dissection(results, LEAN)


def test_the_download_holds_everything_but_the_series():
    results = make_results(steps=20, layers=("fc.weight",))
    link = context.of_dissection(results, LEAN)["data"]
    kind, _, data = link.partition(",")
    assert kind == "data:application/json;base64"
    del results["dissection"]
    assert json.loads(base64.b64decode(data)) == json.loads(json.dumps(results))


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(1, "One seed: there is no interval"), (3, "with so few seeds they are wide"), (10, "10 seeds: ")],
)
def test_limits_name_the_number_of_seeds(seeds: int, words: str):
    assert any(words in sentence for sentence in of(seeds=seeds)["limits"])


def test_limits_follow_the_settings():
    results = make_results(seeds=5, steps=20, layers=("fc.weight",))
    results["settings"]["select"] = "paper"
    results["arms"][0]["tuning"] = results["arms"][0]["tuning"][:1]
    limits = " ".join(context.of_dissection(results, LEAN)["limits"])
    assert "test numbers are therefore optimistic" in limits
    assert "given, not searched" in limits
    assert "1,000 of 1,198 training examples" in limits


def test_the_best_cell_is_not_the_matched_one():
    results = make_results(steps=20, layers=("fc.weight",))
    for run in results["arms"][4]["runs"]:
        run["evaluations"][-1]["train_loss"] = 1e-9
    best = context.of_dissection(results, LEAN)["best"]
    assert best["loss"].method == "adam"


def test_adam_comes_first_among_the_panes():
    assert [pane.label for pane in of()["panes"]] == ["Adam", "Adam (one beta)", "M-SGD", "M-SSD", "M-SVAG"]


def test_an_interaction_is_named_as_one():
    results = make_results(steps=20, layers=("fc.weight",))
    for effect in results["effects"]:
        effect["verdict"] = "helps"
    groups = context.of_dissection(results, LEAN)["effects"]
    assert [row["verdict"] for row in groups[0]["rows"]] == ["helps"] * 4 + ["reinforce"] * 2

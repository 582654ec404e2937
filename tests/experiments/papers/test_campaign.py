"""Given trials in a folder: what is finished stays, what fails is said."""

import json

import pytest

from stepscope.errors import UserError
from stepscope.experiments.papers.campaign import run_all
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.trial import Trial


def planned(tiny, name: str, *rates: float) -> list[tuple[Trial, Parcel]]:
    parts = ("train", "test")
    return [(Trial("mark", "msgd", lr, 0.9, 0, 6, 8, 3, 0, parts, options=()), Parcel(spec=tiny(name))) for lr in rates]


def test_finished_trials_stay_and_all_are_told(tiny, here, diary, tmp_path):
    settings = {"problem": "tiny"}
    first = run_all(planned(tiny, "problem", 0.1), settings, tmp_path / "out", here, diary)
    both = run_all(planned(tiny, "problem", 0.1, 0.2), settings, tmp_path / "out", here, diary)
    assert len(here.ran) == len(set(here.ran)) == 2
    assert json.loads(json.dumps(first)).items() <= json.loads(json.dumps(both)).items()
    assert [(event.done, event.total, event.cached) for event in diary.events] == [
        (1, 1, False),
        (1, 2, True),
        (2, 2, False),
    ]


def test_other_settings_and_failures_are_one_line(tiny, here, tmp_path):
    run_all(planned(tiny, "problem", 0.1), {"problem": "tiny"}, tmp_path / "out", here)
    with pytest.raises(UserError, match="belongs to other settings"):
        run_all(planned(tiny, "problem", 0.1), {"problem": "other"}, tmp_path / "out", here)
    with pytest.raises(UserError, match=r"msgd with step size 1000 failed: AssertionError: the weights are too large"):
        run_all(planned(tiny, "fragile", 1000.0), {"problem": "tiny"}, tmp_path / "fragile", here)

"""The ledger as a whole: every claim has a place and a stored verdict, and every place a claim or a reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stepscope.errors import UserError
from stepscope.experiments.claims import ledger
from stepscope.experiments.claims.claim import Claim, Finding, Verdict
from stepscope.experiments.claims.places import PLACES

CLAIMS = ledger.claims()
QUICK = ("balles-rho-at-start", "kaiser-equation-3-weights", "kaiser-averages-explicit", "tutorial-memory-column",
         "eigen-step-from-spread", "balles-adam-is-sign-times-factor", "kaiser-adam-equation-4")  # fmt: skip


def test_every_claim_stands_at_a_known_place():
    assert [one.id for one in CLAIMS.values() if one.place not in PLACES[one.paper]] == []


def test_every_place_has_a_claim_or_a_reason_and_not_both():
    used = {(one.paper, one.place) for one in CLAIMS.values()}
    for paper, places in PLACES.items():
        for place, reason in places.items():
            assert bool(reason) != ((paper, place) in used), (paper, place)


def test_ids_name_their_paper():
    prefixes = {
        "balles2018": "balles-",
        "eigen2025": "eigen-",
        "kaiser": "kaiser-",
        "tutorial": "tutorial-",
        "stepscope": "beyond-",
    }
    assert all(one.id.startswith(prefixes[one.paper]) for one in CLAIMS.values())


def test_every_claim_has_a_stored_verdict_that_says_what_was_measured():
    stored = ledger.stored()
    assert list(stored) == list(CLAIMS)
    assert all(row.measured for row in stored.values())
    for row in stored.values():
        assert bool(row.condition) or row.verdict not in (Verdict.HOLDS_IF, Verdict.CANNOT), row.id


@pytest.mark.parametrize("id", QUICK)
def test_a_claim_tested_again_gives_the_stored_verdict(id):
    assert ledger.entry(id, CLAIMS[id].run()).verdict == ledger.stored()[id].verdict


def test_a_claim_s_random_numbers_are_its_own_and_the_same_each_time():
    one, other = (CLAIMS[i] for i in QUICK[:2])
    a, b = one.random("x").random(4), one.random("x").random(4)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, other.random("x").random(4))
    assert not np.array_equal(a, one.random("y").random(4))


def test_reproducing_writes_verdict_and_data(tmp_path: Path):
    ledger.reproduce("tutorial-listing-2", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert row["verdict"] == "fails"
    assert row["theirs"].startswith("loss 0.000042")
    table = pq.read_table(tmp_path / "out" / "data.parquet")
    assert table["epoch"].to_pylist() == [50, 100, 150, 200]
    assert (tmp_path / "out" / "data.csv").read_text().startswith('"epoch","loss","w","b"')


def test_unknown_claims_and_unwritable_folders_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'tutorial-listing-1'"):
        ledger.reproduce("tutorial-listing-11", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ledger.reproduce("balles-rho-at-start", tmp_path / "file" / "x")


def test_a_broken_test_does_not_stop_the_others():
    """In processes of their own; the traceback of the broken one comes back."""
    findings, broken = ledger.run_all(["balles-rho-at-start", "kaiser-equation-3-weights"], jobs=1)
    assert set(findings) == {"balles-rho-at-start", "kaiser-equation-3-weights"}
    assert not broken
    id, finding, problem, _ = ledger._tested("no-such-claim")
    assert (id, finding) == ("no-such-claim", None)
    assert "KeyError" in problem


def test_columns_of_different_lengths_stand_side_by_side(tmp_path: Path):
    finding = Finding(Verdict.HOLDS, "", data={"a": [1, 2, 3], "b": [0.5], "c": ["x", "y"]})
    ledger.write("balles-rho-at-start", finding, tmp_path)
    table = pq.read_table(tmp_path / "data.parquet")
    assert table.to_pydict() == {"a": [1, 2, 3], "b": [0.5, None, None], "c": ["x", "y", None]}


def test_the_claims_load_no_torch():
    code = "import sys; from stepscope.experiments.claims import claims; claims(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_claims_are_frozen_before_they_run():
    for one in CLAIMS.values():
        assert isinstance(one, Claim)
        assert one.threshold
        assert one.statement.endswith(".")

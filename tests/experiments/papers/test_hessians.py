"""Probes of the Hessian against the whole Hessian of a network small enough to write it down."""

import json

import numpy as np
import pytest
import torch

from stepscope import problems
from stepscope.experiments.claims.claim import Verdict
from stepscope.experiments.papers import hessians
from stepscope.experiments.papers.reproduce import read, reproduce
from stepscope.theory import quadratic


def whole_hessian(problem, seed: int, examples: int) -> np.ndarray:
    """By automatic differentiation of a loss that is a function of all weights in one vector."""
    model, train = problem.model(seed).eval(), problem.data().train
    index = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:examples]
    names, tensors = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in tensors]

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.view(p.shape) for part, p in zip(torch.split(vector, sizes), tensors, strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (train.inputs[index],))
        return problem.loss(outputs, train.targets[index])

    vector = torch.cat([p.detach().reshape(-1) for p in tensors])
    return torch.autograd.functional.hessian(loss, vector).double().numpy()


def test_all_rows_and_a_whole_krylov_space_are_the_hessian_itself(tiny, tmp_path):
    """Six weights: with as many rows p_diag is exact, and Lanczos finds every eigenvalue that is not zero.

    Float32 second derivatives: some 1e-6 of the largest eigenvalue.
    """
    name = tiny("problem")
    hessians.probe(name, 3, 4, rows=6, iterations=6, examples=40, file=tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    H = whole_hessian(problems.load(name), 3, 40)
    assert found["before"]["p_diag"] == pytest.approx(float(quadratic.p_diag(H)), rel=1e-4)
    exact = np.linalg.eigvalsh(H)
    for value in exact[exact > 1e-3 * exact[-1]]:
        assert min(abs(value - np.array(found["before"]["values"]))) < 1e-5 * exact[-1]
    assert sum(found["before"]["shares"]) == pytest.approx(1)
    assert found["after"]["p_diag"] != found["before"]["p_diag"]
    assert found["before"]["size"] == len(H)


def test_shares_weigh_eigenvalues_as_the_vector_does():
    """Gauss quadrature: the shares times powers of the values are the moments v H^k v, up to k = 2 iterations - 1."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((12, 12))
    H = torch.from_numpy(A @ A.T)
    start = torch.from_numpy(rng.standard_normal(12))
    values, shares = hessians.lanczos(lambda v: [H @ v[0]], [start], 4)
    unit = start / start.norm()
    power = unit
    for k in range(8):
        assert np.dot(shares, np.power(values, k)) == pytest.approx(float(unit @ power), rel=1e-5)  # a float32 basis
        power = H @ power


def made(p_diag: float, values: list[float], shares: list[float], extent: str = "") -> dict:
    look = {"p_diag": p_diag, "values": values, "shares": shares, "size": 1000, "trace": 1.0}
    arms = [{"problem": name, "seed": 0, "before": look, "after": look} for name in hessians.PROBLEMS]
    return {"experiment": hessians.ID, "profile": "paper", "extent": extent, "steps": 1, "arms": arms}


def test_the_sentences_on_hessians_whose_answer_is_known():
    findings = read(made(0.3, [0.0, 5.0, 100.0], [0.99, 0.005, 0.005])).findings
    assert {one.verdict for one in findings.values()} == {Verdict.HOLDS}
    findings = read(made(0.01, [50.0, 100.0], [0.5, 0.5])).findings
    assert {one.verdict for one in findings.values()} == {Verdict.FAILS}
    assert {one.verdict for one in read(made(0.3, [1.0], [1.0], "some")).findings.values()} == {Verdict.INDICATES}


def test_it_runs_and_resumes(built_in, here, tmp_path, monkeypatch):
    monkeypatch.setattr(hessians, "PROBLEMS", {built_in("problem"): "one", built_in("dropout"): "other"})
    done = reproduce(hessians.ID, "smoke", tmp_path / "out", executor=here)
    assert sorted(here.ran) == ["dropout-0", "problem-0"]
    assert len(done.figure.panels) == 2
    (tmp_path / "out" / "curves.json").unlink()
    (tmp_path / "out" / "problem-0.json").unlink()
    again = reproduce(hessians.ID, "smoke", tmp_path / "out", executor=here)
    assert here.ran[2:] == ["problem-0"]
    assert again.stored == json.loads(json.dumps(done.stored))

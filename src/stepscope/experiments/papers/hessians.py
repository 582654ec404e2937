"""[balles2018, Sec. 2.1]: how axis-aligned and how ill-conditioned the Hessians of real networks are.

p_diag, the diagonal's share of the sum of all |h_ij|, from random rows of the Hessian; the spectrum by Lanczos' method
from random vectors, each eigenvalue of whose Krylov space stands for a share of all [golub2010]. On a fixed batch of
training examples, before training and after it (Adam, step size 0.001).
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stepscope.errors import UserError
from stepscope.experiments.claims.claim import Finding, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel, Points
from stepscope.experiments.papers.curves import fractional, so_far
from stepscope.experiments.papers.experiment import SCHEMA, Experiment, Extent, Sentence, Stored
from stepscope.store.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from stepscope.experiments.executor import Executor
    from stepscope.experiments.progress import Progress

__all__ = ["EXPERIMENTS", "figure", "gather", "lanczos", "probe", "train"]

ID: Final = "balles2018_sec21"
PROBLEMS: Final = {"digits": "digits", "fashion-mnist": "P1, Fashion-MNIST"}
LR: Final = 1e-3
ROWS: Final = 100  # of the Hessian; a p_diag from them varies by some tenth of itself
ITERATIONS: Final = 40
EXAMPLES: Final = 500
NEAR: Final = 0.01  # of the largest eigenvalue: "close to zero"
LARGE: Final = 0.1  # of it: "very large"
THEIRS: Final = (0.1, 0.6)


def lanczos(
    product: "Callable[[Sequence[Tensor]], list[Tensor]]", start: "Sequence[Tensor]", iterations: int
) -> tuple[list[float], list[float]]:
    """Eigenvalues of the Krylov space of a vector, and the shares of its square along them, which sum to 1.

    Orthogonalised against all former directions, twice, so that no eigenvalue repeats.
    """
    import torch

    def flat(x: "Sequence[Tensor]") -> "Tensor":
        return torch.cat([part.reshape(-1) for part in x]).double()

    def shaped(x: "Tensor") -> "list[Tensor]":
        parts = torch.split(x.to(start[0].dtype), [p.numel() for p in start])
        return [part.view(p.shape) for part, p in zip(parts, start, strict=True)]

    now = flat(start)
    now /= now.norm()
    basis = [now.float()]  # float32 halves the memory of millions of coordinates
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(iterations, len(now))):
        turned = flat(product(shaped(now)))
        diagonal.append(float(now @ turned))
        for _ in range(2):
            for one in basis:
                turned -= (one.double() @ turned) * one.double()
        size = float(turned.norm())
        if size <= 1e-6 * max(map(abs, diagonal)):
            break
        beside.append(size)
        now = turned / size
        basis.append(now.float())
    n = len(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1))
    return values.tolist(), (vectors[0] ** 2).tolist()


def probe(name: str, seed: int, steps: int, rows: int, iterations: int, examples: int, file: Path) -> None:
    """Measure before and after training and write both to a file, in a process of its own."""
    import torch

    from stepscope import problems
    from stepscope.experiments.trial import Training, Trial
    from stepscope.scope.aside import Products, undisturbed
    from stepscope.scope.curvature import Sight, measure

    if file.is_file():
        return
    torch.set_num_threads(1)
    problem = problems.load(name)
    batch_size = problem.protocol.batch_size
    trial = Trial(name, "adam", LR, None, seed, steps, batch_size, steps, 0, ("train", "test"))
    training = Training(trial, problem)
    train = problem.data().train
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(train), generator=generator)[:examples]
    inputs, targets = train.inputs[index], train.targets[index]
    model = training.model

    def loss() -> torch.Tensor:
        found = problem.loss(model(inputs), targets)
        return found if problem.penalty is None else found + problem.penalty(model)

    def look() -> dict[str, Any]:
        tensors = [p for p in model.parameters() if p.requires_grad]
        sight = Sight(None, float("nan"))
        model.eval()  # without dropout and batch statistics the loss is a function of the weights alone
        found = measure(loss, [(p, sight) for p in tensors], model, seed=seed, iterations=iterations, probes=rows)
        with undisturbed(model):
            start = [torch.randn(p.shape, generator=generator) for p in tensors]
            values, shares = lanczos(Products(loss, tensors), start, iterations)
        model.train()
        told = {"p_diag": found["hessian_diagonal_share"], "trace": found["hessian_trace"]}
        return told | {"values": values, "shares": shares, "size": sum(p.numel() for p in tensors)}

    before = look()
    for _ in training.steps():
        pass
    result = training.result()
    write_json(file, {"problem": name, "seed": seed, "status": result["status"],
                      "evaluations": result["evaluations"], "before": before, "after": look()})  # fmt: skip


def train(
    experiment: Experiment, profile: str, folder: Path, executor: "Executor | None", progress: "Progress | None"
) -> Stored:
    """Probe each problem and seed as a task of its own; files that are there are kept."""
    import contextlib

    from stepscope import problems
    from stepscope.experiments.executor import Processes, Task
    from stepscope.experiments.progress import Silent, TrialEvent

    extent, told = experiment.extent(profile), progress or Silent()
    rows, iterations, examples = (4, 6, 60) if profile == "smoke" else (ROWS, ITERATIONS, EXAMPLES)
    files, tasks = {}, {}
    for name in PROBLEMS:
        steps = problems.load(name).protocol.steps
        steps = steps if profile == "paper" else min(extent.steps, steps)
        for seed in range(extent.seeds):
            file = (folder / f"{name}-{seed}.json").resolve()
            files[f"{name}-{seed}"] = file
            if not file.is_file():
                tasks[f"{name}-{seed}"] = Task(
                    f"{name}-{seed}", probe, (name, seed, steps, rows, iterations, examples, file)
                )
    told.start(len(files))
    engine = executor or Processes(None, ("torch", "torch._dynamo", "stepscope.experiments.attempt"))
    with contextlib.closing(engine):
        for task in tasks.values():
            engine.submit(task)
        left, done = set(tasks), len(files) - len(tasks)
        while left:
            for finished in engine.wait():
                left.discard(finished.key)
                done += 1
                if finished.error is not None:
                    raise UserError(f"{finished.key} failed: {finished.error.strip().splitlines()[-1]}")
                told.advance(TrialEvent("replication", "adam", finished.key, "ok", done, len(files)))
    return gather(experiment, profile, folder)


def gather(experiment: Experiment, profile: str, folder: Path) -> Stored:
    """What the networks that were probed left."""
    extent = experiment.extent(profile)
    files = [folder / f"{name}-{seed}.json" for name in PROBLEMS for seed in range(extent.seeds)]
    arms = [json.loads(file.read_text("utf-8")) for file in files if file.is_file()]
    return {"schema": SCHEMA, "experiment": experiment.id, "profile": profile,
            "extent": so_far(extent.note, len(arms), len(files)), "steps": extent.steps, "arms": arms}  # fmt: skip


def _looks(stored: Stored) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Problem, "before" or "after", and what was measured; of every seed."""
    return [(arm["problem"], when, arm[when]) for arm in stored["arms"] for when in ("before", "after")]


def _share(look: Mapping[str, Any], test: Callable[[Any], Any]) -> float:
    """Of the eigenvalues, those whose size in units of the largest passes the test."""
    sizes = np.abs(look["values"])
    return float(np.asarray(look["shares"])[test(sizes / sizes.max())].sum())


def figure(stored: Stored) -> Figure:
    """p_diag of every network, and the share of eigenvalues whose size exceeds a part of the largest."""
    looks = _looks(stored)
    places = {(name, when): i for i, (name, when) in enumerate((n, w) for n in PROBLEMS for w in ("before", "after"))}
    dots = [
        Points([places[key] for name, when, _ in looks if (name, when) == key],
               [look["p_diag"] for name, when, look in looks if (name, when) == key],
               f"{PROBLEMS[key[0]]}, {key[1]} training", colour=i)
        for i, key in enumerate(places)
    ]  # fmt: skip
    ends = [Line([-0.5, 3.5], [limit, limit], "reported for small networks" if limit == THEIRS[0] else "", accent=True)
            for limit in THEIRS]  # fmt: skip
    curves = []
    for i, key in enumerate(places):
        look = next((look for name, when, look in looks if (name, when) == key), None)
        if look is not None:
            grid = np.geomspace(1e-4, 1, 60)
            above = [max(_share(look, partial(operator.le, g)), 1e-8) for g in grid]
            curves.append(Line(grid, above, f"{PROBLEMS[key[0]]}, {key[1]}", colour=i))
    extent = f" {stored['extent']}." if stored["extent"] else ""
    return Figure(
        [
            Panel([*dots, *ends], "diagonal share of the Hessian", "", "p_diag", y_log=True),
            Panel(curves, "eigenvalues", "size / largest", "share of eigenvalues above", x_log=True, y_log=True),
        ],
        f"{EXPERIMENTS[ID].title} [balles2018, Sec. 2.1], on {EXAMPLES} training examples: p_diag from {ROWS} random "
        f"rows, and the spectrum from {ITERATIONS} steps of Lanczos' method.{extent}",
    )


def _aligned(stored: Stored) -> Finding:
    found = [(name, when, look["p_diag"], look["size"]) for name, when, look in _looks(stored)]
    good = all(THEIRS[0] <= value <= THEIRS[1] for *_, value, _ in found)
    sizes = {name: size for name, _, _, size in found}
    texts = [
        f"{name} {when} training {_range([v for n, w, v, _ in found if (n, w) == (name, when)], '.2g')} "
        f"(a random matrix has {1.57 / sizes[name]:.1g})"
        for name, when in dict.fromkeys((n, w) for n, w, *_ in found)
    ]
    return Finding(decide(good), "; ".join(texts))


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _ill_conditioned(stored: Stored) -> Finding:
    found = [
        (name, when, _share(look, lambda x: x < NEAR), _share(look, lambda x: x > LARGE))
        for name, when, look in _looks(stored)
    ]
    good = all(near > 0.5 and large < 0.01 for *_, near, large in found)
    texts = [
        f"{name} {when} training {_range([x for n, w, x, _ in found if (n, w) == (name, when)], '.1%')} near zero, "
        f"{_range([x for n, w, _, x in found if (n, w) == (name, when)], '.2g')} large"
        for name, when in dict.fromkeys((n, w) for n, w, *_ in found)
    ]
    return Finding(decide(good), "; ".join(texts))


def _sentence(id: str, statement: str, threshold: str, test: Callable[[Stored], Finding]) -> Sentence:
    return Sentence(id, "Sec. 2.1, summary", statement, threshold, lambda stored: fractional(test(stored), stored))


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    ID: Experiment(
        ID, "balles2018", "Sec. 2.1", "Hessians of two networks before and after training",
        {
            "paper": Extent(6000, 3, 6000, None, ("adam",)),
            "small": Extent(600, 1, 600, None, ("adam",), note="A fraction of the protocol: 600 steps, 1 seed"),
            "smoke": Extent(2, 1, 2, None, ("adam",), note="A fraction of the protocol: 2 steps, a few rows"),
        },
        train,
        figure,
        (
            _sentence("balles-p-diag-networks", "Hessians of networks have comparably high p_diag, from 0.1 to 0.6.",
                      "p_diag within that for both networks, before and after training", _aligned),
            _sentence("balles-spectrum-networks",
                      "Most eigenvalues of a network's Hessian are close to zero, a few are very large.",
                      f"more than half are below {NEAR:.0%} of the largest in size, less than 1 % above {LARGE:.0%}, "
                      "for both networks, before and after training", _ill_conditioned),
        ),
        gather,
    )
}  # fmt: skip

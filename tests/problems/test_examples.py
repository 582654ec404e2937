"""The example a user starts from, and its page."""

import re
from pathlib import Path

import torch

from stepscope.problems import check, load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_problem.py"
PAGE = ROOT / "docs" / "own-problem.md"


def code_block() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return block


def test_the_page_shows_the_example_word_for_word():
    assert code_block() == EXAMPLE.read_text("utf-8")


def test_the_page_s_code_is_a_good_problem(tmp_path):
    file = tmp_path / "own_problem.py"
    file.write_text(code_block(), "utf-8")
    check(load(str(file)))


def test_the_example_learns():
    """Predicting the mean costs about 1, because the targets have unit variance; measured after training: 0.38."""
    problem = load(str(EXAMPLE))
    train, model, generator = problem.data().train, problem.model(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(problem.protocol.steps):
        batch = torch.randint(len(train), (problem.protocol.batch_size,), generator=generator)
        optimizer.zero_grad()
        problem.loss(model(train.inputs[batch]), train.targets[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        assert problem.loss(model(train.inputs), train.targets) < 0.7

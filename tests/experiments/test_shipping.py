"""Problems that can travel, and those that cannot."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from stepscope import problems
from stepscope.errors import UserError
from stepscope.experiments.shipping import Parcel, fingerprint, pack, unpack
from stepscope.problems import Data, Split


@pytest.fixture
def problem(tiny):
    return problems.load(tiny("problem"))


def mark(problem):
    return fingerprint(problem, problem.data())


def test_a_problem_with_a_spec_goes_as_that(problem, tiny):
    parcel = pack(problem, mark(problem))
    assert parcel == Parcel(spec=tiny("problem"))
    assert unpack(parcel).name == "tiny"


def test_a_problem_of_importable_parts_goes_as_a_pickle():
    """Also after a field was replaced: the digits then no longer are what their name loads."""
    digits = dataclasses.replace(problems.load("digits"), loss=nn.functional.multi_margin_loss)
    parcel = pack(digits, mark(digits))
    assert not parcel.spec
    assert not parcel.main
    arrived = unpack(parcel)
    assert mark(arrived) == mark(digits) != mark(problems.load("digits"))
    assert arrived.protocol == digits.protocol


def test_a_changed_protocol_does_not_change_what_is_sent():
    """Batch size and steps travel with each trial."""
    digits = problems.load("digits")
    longer = dataclasses.replace(digits, protocol=dataclasses.replace(digits.protocol, steps=7))
    assert pack(longer, mark(longer)) == Parcel(spec="digits")


def test_a_problem_that_cannot_be_pickled_belongs_in_a_file(problem):
    odd = dataclasses.replace(problem, loss=lambda outputs, targets: outputs.mean(), spec="")
    with pytest.raises(
        UserError, match=r"^'tiny' cannot be sent to other processes \(.*\): put it in a file of its own"
    ):
        pack(odd, mark(odd))


def test_a_pickle_that_cannot_be_opened_says_so():
    with pytest.raises(
        UserError, match=r"^the problem cannot be made again in another process \(UnpicklingError.*a file of"
    ):
        unpack(Parcel(pickled=b"?"))


def test_the_fingerprint_follows_data_model_loss_and_metric(problem):
    def changed(**fields):
        return mark(dataclasses.replace(problem, **fields))

    data = problem.data()
    relabelled = Data(data.train, Split(data.test.inputs, 1 - data.test.targets))
    marks = [
        mark(problem),
        changed(data=lambda: relabelled),
        changed(model=lambda seed: nn.Linear(2, 2, bias=False)),
        changed(model=lambda seed: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))),
        changed(model=lambda seed: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2))),
        changed(loss=nn.functional.multi_margin_loss),
        changed(metric=None),
    ]
    assert len(set(marks)) == len(marks)
    assert changed(name="other", description="other") == marks[0]


def test_the_fingerprint_reads_tensors_of_every_kind(problem):
    """Odd types, a scalar and a view that is not contiguous among the model's tensors."""

    class Odd(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            for index, dtype in enumerate((torch.bool, torch.bfloat16, torch.complex64, torch.int64)):
                self.register_buffer(f"odd{index}", torch.ones(3, 2).to(dtype).T)
            self.register_buffer("scalar", torch.tensor(1.5))

    assert len(mark(dataclasses.replace(problem, model=lambda seed: Odd()))) == 16


SCRIPT = """
import sys
import torch
from torch import nn
from stepscope.experiments import dissect
from stepscope.problems import Data, Problem, Protocol, Split

def data():
    inputs = torch.linspace(-1, 1, 40)[:, None]
    return Data(Split(inputs, 3 * inputs), Split(inputs, 3 * inputs))

def model(seed):
    return nn.Linear(1, 1)

problem = Problem("line", data, model, nn.functional.mse_loss, Protocol(8, 6, 3), metric=None)
grid = dict.fromkeys(["msgd", "mssd", "msvag", "adam", "adam_one_beta"], [0.01])
dissection = dissect(problem, seeds=1, grid=grid, out=sys.argv[-1])
print("done", dissection.results["problem"]["name"])
"""


def test_a_script_without_a_main_guard_can_dissect_its_own_problem(tmp_path):
    """The script is run again in every worker, up to the call; what comes after it runs once."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done line\n", "")


def test_a_problem_typed_into_an_interactive_session_belongs_in_a_file(tmp_path):
    command = [sys.executable, "-c", SCRIPT, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.splitlines()[-1] == (
        "stepscope.errors.UserError: 'line' lives in an interactive session, where no process finds it: "
        "put it in a file of its own and pass 'FILE.py:NAME'."
    )

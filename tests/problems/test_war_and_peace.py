import pytest
import torch
from tests.problems import archives
from torch import nn

from stepscope.problems import Decrease
from stepscope.problems.war_and_peace import problem


def rows(first: int, count: int) -> torch.Tensor:
    """Sequences of a made-up text in the order of the problem's rows."""
    characters = torch.randint(83, (200, 50), generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.arange(200)[:, None] % 50, characters], dim=1)[first : first + count]


def test_the_parameter_count_by_hand():
    """Embedding 83 x 128; two layers of four gates, from 128 inputs and 128 states, one bias; 128 -> 83."""
    trained = [p.numel() for p in problem.model(0).parameters() if p.requires_grad]
    assert sum(trained) == 83 * 128 + 2 * 4 * 128 * (128 + 128 + 1) + 128 * 83 + 83 == 284_499


def test_the_protocol():
    protocol = problem.protocol
    assert (protocol.batch_size, protocol.steps, protocol.in_order) == (50, 200_000, True)
    assert protocol.schedule == Decrease(0.1, after=(0.5, 0.8))


def test_rows_are_the_text_in_fifty_streams(tiny_data):
    text = archives.text()[1:]  # without the mark
    alphabet = sorted(set(text))
    data, cut = problem.data(), int(0.8 * len(text))
    for split, part in ((data.train, text[:cut]), (data.test, text[cut:])):
        sequences = (len(part) - 1) // 2500
        assert len(split) == 50 * sequences
        for k in range(sequences):
            for stream in (0, 17, 49):
                start = (stream * sequences + k) * 50
                number, *inputs = split.inputs[50 * k + stream].tolist()
                assert number == stream
                assert "".join(alphabet[c] for c in inputs) == part[start : start + 50]
                assert "".join(alphabet[c] for c in split.targets[50 * k + stream]) == part[start + 1 : start + 51]


def test_the_real_text(here):
    if not here("war-and-peace"):
        pytest.skip("War and Peace is not on this machine")
    archives.forget()
    data = problem.data()
    assert (len(data.train), len(data.test)) == (52_100, 13_000)
    kinds = torch.cat([part.inputs[:, 1:].unique() for part in (data.train, data.test)]).unique()
    assert kinds.tolist() == list(range(83))
    assert problem.protocol.validation_examples(len(data.train)) == 10_420


def slow_twin(model: nn.Module, sequence: torch.Tensor) -> torch.Tensor:
    """One stream, one character after the other, by the equations of an LSTM; no dropout. Float64."""
    state = [[torch.zeros(128, dtype=torch.float64) for _ in range(2)] for _ in range(2)]
    logits = []
    for character in sequence:
        x = model.embedding.weight[character].double()
        for layer, lstm in enumerate((model.lstm1, model.lstm2)):
            h, c = state[layer]
            gates = lstm.weight_ih_l0.double() @ x + lstm.weight_hh_l0.double() @ h + lstm.bias_ih_l0.double()
            i, f, g, o = gates.view(4, 128)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            state[layer] = [x, c]
        logits.append(model.fc.weight.double() @ x + model.fc.bias.double())
    return torch.stack(logits, dim=1)


def test_states_go_on_from_batch_to_batch_until_a_pass_begins():
    """Against equations on one stream. Float32 over 100 steps of a contracting map: below 1e-4 of logits of order 1."""
    model = problem.model(0).eval()
    with torch.no_grad():
        model.begin()
        ours = torch.cat([model(rows(0, 50))[13], model(rows(50, 50))[13]], dim=1)
        twin = slow_twin(model, torch.cat([rows(13, 1)[0, 1:], rows(63, 1)[0, 1:]]))
        assert (ours - twin).abs().max() < 1e-4
        model.begin()
        assert torch.equal(model(rows(0, 50))[13], ours[:, :50])


def test_parts_of_a_batch_and_many_batches_at_once_give_the_same():
    """Matrix products of other shapes round otherwise: a few units of 1e-7."""
    model = problem.model(0).eval()
    with torch.no_grad():
        model.begin()
        whole = model(rows(0, 150))
        model.begin()
        parts = torch.cat([model(part) for start in (0, 50, 100) for part in rows(start, 50).tensor_split(8)])
    assert (whole - parts).abs().max() < 1e-5


def test_evaluating_does_not_touch_the_state_of_training():
    model = problem.model(0)
    model.begin()
    model(rows(0, 50))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert before["carried"].any()
    model.eval()
    model.begin()
    model(rows(50, 100))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_gradient_goes_back_into_an_earlier_batch():
    model = problem.model(0)
    model.begin()
    for start in (0, 50):
        outputs = model(rows(start, 50))
        outputs.square().mean().backward()  # would raise if it went through the first graph again
    assert not model.carried.requires_grad


def test_dropout_acts_before_and_after_each_layer(monkeypatch):
    model, calls = problem.model(0), []
    monkeypatch.setattr(model.dropout, "forward", lambda x: calls.append(x.shape) or x)
    model(rows(0, 50))
    assert calls == [(50, 50, 128)] * 4
    assert model.dropout.p == 0.2


def test_the_start_is_tensorflows():
    """One matrix for inputs and states of a layer, fans 256 and 512; biases 0, that of the forget gate 1."""
    model, bound = problem.model(0), (6 / (256 + 512)) ** 0.5
    for lstm in (model.lstm1, model.lstm2):
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
            assert 0.99 * bound < weight.abs().max() <= bound
        assert lstm.bias_ih_l0.tolist() == [0.0] * 128 + [1.0] * 128 + [0.0] * 256
        assert not lstm.bias_hh_l0.any()
        assert not lstm.bias_hh_l0.requires_grad

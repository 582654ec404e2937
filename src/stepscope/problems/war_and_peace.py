"""Problem P4 of Balles and Hennig (2018): the next character of War and Peace, by a two-layer LSTM.

The main text names network, text and a decrease of the step size that is the same for all methods; its supplement gives
the rest and was not to hand. Layers, initialisation, dropout, sequences and batch size are those of `tolstoi_char_rnn`
of DeepOBS, with its 284,499 parameters. Where we chose:

- the text is the one published with char-rnn, without its byte-order mark: 3,258,226 characters of 83 kinds, not quite
  the length of DeepOBS' copy; the first 80 % to train on, as there;
- 200,000 steps, reported for the paper and unverified: 200 passes over the training text, as in DeepOBS, are 208,400;
- the step size falls to a tenth after half of the steps and again after four fifths: the paper's numbers are not known;
- the last fifth of each stream of the training text is held out, as much as there is test text.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor, nn

from stepscope.errors import DamagedData
from stepscope.problems import data
from stepscope.problems.problem import Data, Decrease, Metric, Problem, Protocol, Split

__all__ = ["problem"]

KINDS = 83  # of characters
STREAMS = 50  # places in the text at which a mini-batch reads on
LENGTH = 50  # characters of a sequence
WIDTH = 128
LAYERS = 2
DROPPED = 0.2
TRAINING_SHARE = 0.8


@functools.cache
def _data() -> Data:
    """A row is a sequence: inputs (1 + 50,), the number of its stream and the characters; targets (50,), the next ones.

    Each split is cut into 50 streams of equal length. Rows 50 k to 50 k + 49 are the k-th sequences of all streams.
    """
    _, files = data.read("war-and-peace")
    [(path, contents)] = files.items()
    codes = np.frombuffer(contents.decode("utf-8-sig").encode("utf-32-le"), dtype=np.uint32)
    alphabet, numbers = np.unique(codes, return_inverse=True)
    if len(alphabet) > KINDS:
        raise DamagedData(f"{path} has {len(alphabet)} kinds of characters, expected {KINDS}.")
    cut = int(TRAINING_SHARE * len(numbers))
    return Data(train=_streams(numbers[:cut]), test=_streams(numbers[cut:]))


def _streams(numbers: np.ndarray) -> Split:
    sequences = (len(numbers) - 1) // (STREAMS * LENGTH)
    count = STREAMS * sequences * LENGTH

    def rows(start: int) -> Tensor:
        text = torch.from_numpy(numbers[start : start + count].astype(np.int64))
        return text.view(STREAMS, sequences, LENGTH).transpose(0, 1).reshape(-1, LENGTH)

    streams = torch.arange(STREAMS).repeat(sequences)
    return Split(torch.cat([streams[:, None], rows(0)], dim=1), rows(1))


class _CharRNN(nn.Module):
    """Each stream's state goes on from one mini-batch to the next, without gradient, until a pass begins anew.

    Rows are told apart by their stream, so parts of a mini-batch may come one after the other. In evaluation mode
    there is a state of its own, and many sequences of a stream may come at once, in order.
    """

    carried: Tensor
    evaluated: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(KINDS, WIDTH)
        self.lstm1 = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.lstm2 = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.dropout = nn.Dropout(DROPPED)
        self.fc = nn.Linear(WIDTH, KINDS)
        # (hidden, cell) of each layer and stream; the training state is part of a checkpoint.
        self.register_buffer("carried", torch.zeros(2, LAYERS, STREAMS, WIDTH))
        self.register_buffer("evaluated", torch.zeros(2, LAYERS, STREAMS, WIDTH), persistent=False)
        self._start()

    def _start(self) -> None:
        """As TensorFlow: one matrix of a layer is uniform with Glorot's variance, biases 0, that of forgetting 1."""
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        bound = math.sqrt(6 / (2 * WIDTH + 4 * WIDTH))
        for lstm in (self.lstm1, self.lstm2):
            nn.init.uniform_(lstm.get_parameter("weight_ih_l0"), -bound, bound)
            nn.init.uniform_(lstm.get_parameter("weight_hh_l0"), -bound, bound)
            bias, second = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
            nn.init.zeros_(bias)
            bias.data[WIDTH : 2 * WIDTH] = 1  # input, forget, cell, output
            nn.init.zeros_(second).requires_grad_(False)  # PyTorch adds two biases; one is enough

    def begin(self) -> None:
        """A pass over a split begins: forget."""
        (self.carried if self.training else self.evaluated).zero_()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (n, 1 + 50) of `_data` -> logits (n, 83, 50)."""
        starts = range(0, len(rows), STREAMS)  # any 50 rows in order are of 50 streams
        return torch.cat([self._read(rows[start : start + STREAMS]) for start in starts])

    def _read(self, rows: Tensor) -> Tensor:
        streams, x = rows[:, 0], self.embedding(rows[:, 1:])
        state = self.carried if self.training else self.evaluated
        for layer, lstm in enumerate((self.lstm1, self.lstm2)):
            hidden, cell = state[:, layer, streams].unsqueeze(1)
            x, (hidden, cell) = lstm(self.dropout(x), (hidden, cell))
            x = self.dropout(x)
            state[:, layer, streams] = torch.stack([hidden, cell]).squeeze(1).detach()
        logits: Tensor = self.fc(x)
        return logits.transpose(1, 2)


def _model(seed: int) -> nn.Module:
    return _CharRNN()


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=1) == targets).float().mean(dim=1)


problem = Problem(
    name="war-and-peace",
    data=_data,
    model=_model,
    loss=nn.functional.cross_entropy,
    protocol=Protocol(
        batch_size=STREAMS,
        steps=200_000,
        evaluate_every=5000,
        validation_share=1 / 5,
        schedule=Decrease(0.1, after=(0.5, 0.8)),
        in_order=True,
    ),
    metric=Metric("accuracy", _hits, is_share=True),
    description="War and Peace, two-layer LSTM on characters: problem P4 of Balles and Hennig (2018)",
)

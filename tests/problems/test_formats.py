import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.problems import archives

from stepscope.errors import DamagedData
from stepscope.problems.formats import decode_cifar, decode_idx


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_both_forms_hold_the_same_images(name, form):
    written = archives.images(name)
    for file, contents in archives.contents(name, form).items():
        pixels, labels = written[file.removesuffix(".bin")]
        images, classes = decode_cifar(contents, Path(file), form, labels.shape[1])
        assert images.dtype == np.uint8
        assert (images == pixels.reshape(-1, 3, 32, 32)).all()
        assert (classes == labels[:, -1]).all()  # the fine classes


class Evil:
    """Unpickled freely, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_cannot_call_what_it_likes(tmp_path):
    contents = pickle.dumps(Evil(tmp_path / "made"), protocol=2)
    with pytest.raises(DamagedData, match=r"is no batch of CIFAR images: UnpicklingError\('it asks for "):
        decode_cifar(contents, tmp_path / "data_batch_1", "python", 1)
    assert not (tmp_path / "made").exists()
    pickle.loads(contents)
    assert (tmp_path / "made").exists()  # the test would notice


@pytest.mark.parametrize(
    ("contents", "form", "text"),
    [
        (b"", "binary", "holds 0 bytes, which is no multiple of 3073"),
        (bytes(3074), "binary", "holds 3074 bytes, which is no multiple of 3073"),
        (b"", "python", "is no batch of CIFAR images: EOFError"),
        (pickle.dumps({"data": 1}), "python", "is no batch of CIFAR images: KeyError"),
        (pickle.dumps({"data": [[1, 2]], "labels": [1]}), "python", r"an array of int64 of shape \(1, 2\), not images"),
    ],
)
def test_other_contents_are_damage(contents, form, text, tmp_path):
    with pytest.raises(DamagedData, match=text):
        decode_cifar(contents, tmp_path / "x", form, 1)


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (b"", "it begins with nothing"),
        (b"\x89PNG", "it begins with 89504e47"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "it begins with 00000d01"),
        (b"\0\0\x08\1\0\0\0\3ab", r"holds 10 bytes, but its header says shape \(3,\)"),
        (b"\0\0\x08\1\0\0\0\3abcd", r"holds 12 bytes, but its header says shape \(3,\)"),
        (b"\0\0\x08\2\0\0\0\3", "holds 8 bytes, but its header is cut off"),
        (b"\0\0\x08\1\0", "holds 5 bytes, but its header is cut off"),
    ],
)
def test_a_wrong_header_is_damage(contents, text, tmp_path):
    with pytest.raises(DamagedData, match=text):
        decode_idx(contents, tmp_path / "x")


def test_idx_counts_the_last_dimension_fastest(tmp_path):
    contents = b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (2, 1, 2)) + bytes([7, 8, 9, 250])
    array = decode_idx(contents, tmp_path / "x")
    assert array.tolist() == [[[7, 8]], [[9, 250]]]
    assert array.dtype == np.uint8

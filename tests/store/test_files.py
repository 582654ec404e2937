import dataclasses
import errno
import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepscope.errors import UserError
from stepscope.store import write_json
from stepscope.store.files import plain, refusal, replacing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=30)  # each one waits for the disk
@given(JSON)
def test_json_comes_back_as_it_went(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert json.loads(path.read_text("utf-8")) == value


def test_what_json_does_not_know_is_translated():
    @dataclasses.dataclass
    class Settings:
        lr: float
        folder: Path

    assert plain({"a": math.nan, 2: [math.inf, -math.inf, np.float32("nan")]}) == {"a": None, "2": [None, None, None]}
    assert plain(Settings(0.5, Path("x/y"))) == {"lr": 0.5, "folder": "x/y"}
    assert plain(np.array([[1, 2]])) == [[1, 2]]
    assert plain((np.int64(3), np.float32(0.5), np.bool_(True))) == [3, 0.5, True]
    assert plain({"b", "a"}) == ["a", "b"]
    assert plain([Settings, object]) == [str(Settings), "<class 'object'>"]


def test_text_that_is_no_unicode_is_kept_apart_from_the_encoding(tmp_path):
    """Words of a command line may hold any byte; Python marks them by lone surrogates, which UTF-8 cannot write."""
    write_json(tmp_path / "a.json", {"command": ["\udcff"]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"command": ["\udcff"]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")

    def stop():
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text("utf-8")) == "old"


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [0] * 1000)
    done = threading.Event()

    def write(value):
        while not done.is_set():
            write_json(path, [value] * 1000)

    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    seen = [json.loads(path.read_text("utf-8")) for _ in range(300)]
    done.set()
    for writer in writers:
        writer.join()
    assert all(len(value) == 1000 and len(set(value)) == 1 for value in seen)


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(UserError) as caught:
        write_json(tmp_path / "gone" / "a.json", 1)
    folder = tmp_path / "gone"
    assert str(caught.value) == (
        f"cannot write {folder}/a.json: the folder {folder} is missing. It must exist as long as it is written to."
    )


def test_a_full_disk_is_one_clear_line(small_disk, fill):
    write_json(small_disk / "a.json", "old")
    fill(small_disk)
    with pytest.raises(UserError) as caught:
        write_json(small_disk / "a.json", ["new"] * 10_000)
    assert str(caught.value) == (
        f"cannot write {small_disk}/a.json: the disk is full. "
        f"Free some space on the disk of {small_disk}, or choose another folder."
    )
    assert json.loads((small_disk / "a.json").read_text("utf-8")) == "old"
    assert sorted(entry.name for entry in small_disk.iterdir()) == ["a.json", "filler"]


def test_every_refusal_is_one_line_that_says_what_to_do():
    for number in (*errno.errorcode, 99999):
        text = refusal(OSError(number, os.strerror(number)), Path("runs/first/run.json"))
        assert text.startswith("cannot write runs/first/run.json: ")
        assert text.endswith(".")
        assert "\n" not in text
    assert refusal(OSError("pyarrow's own\nwords"), Path("a/b")).startswith("cannot write a/b: pyarrow's own. ")

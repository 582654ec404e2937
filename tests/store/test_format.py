import json

import pytest

from stepscope.errors import DamagedData, UserError
from stepscope.store import Run, RunWriter, Sink
from stepscope.store.format import read_info, segments


def message(folder, kind=UserError):
    with pytest.raises(kind) as caught:
        Run(folder)
    with pytest.raises(kind) as again:
        read_info(folder)
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "gone", tmp_path / "file"):
        assert message(folder) == (
            f"{folder} is no run folder: it has no run.json. Give the folder that the run was recorded to."
        )


def test_a_newer_schema_asks_for_an_upgrade(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "stepscope.run/2"}')
    expected = (
        f"{tmp_path} was recorded by a newer stepscope (schema stepscope.run/2, this one knows stepscope.run/1). "
        "Upgrade: pip install --upgrade stepscope."
    )
    assert message(tmp_path) == expected
    with pytest.raises(UserError) as caught:
        RunWriter(tmp_path)
    assert str(caught.value) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [{}, {"schema": "wandb/1"}, {"schema": "stepscope.run/x"}, {"schema": None}, [], 3])
def test_a_run_json_of_something_else_is_left_alone(tmp_path, content):
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert "was not written by stepscope" in message(tmp_path)
    with pytest.raises(UserError, match="was not written by stepscope"):
        RunWriter(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b'{"schema": "stepsc', b"\xff\xfe"])
def test_a_damaged_run_json_says_so(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    assert "is no valid JSON" in message(tmp_path, DamagedData)


def test_segments_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("000010.arrow", "000009.arrow", "1000000.arrow", ".000011.arrow.1-2.tmp", "x.arrow", "000012.parquet"):
        (tmp_path / name).touch()
    assert [*segments(tmp_path, ".arrow")] == [9, 10, 1_000_000]
    assert segments(tmp_path, ".arrow")[9] == tmp_path / "000009.arrow"
    assert segments(tmp_path / "gone", ".arrow") == {}


def test_a_run_writer_is_a_sink(tmp_path):
    sink: Sink = RunWriter(tmp_path)
    sink.write(1, "", {"loss": 1.0})
    sink.flush()
    sink.close()

import json

import pytest

from stepscope.errors import DamagedData, UserError
from stepscope.store import BlockSink, Run, RunWriter
from stepscope.store.format import live_files, part_files, part_name, read_info, superseded


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
    (tmp_path / "run.json").write_text('{"schema": "stepscope.run/3"}')
    expected = (
        f"{tmp_path} was recorded by a newer stepscope (schema stepscope.run/3, this one knows stepscope.run/2). "
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


def test_live_segments_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "live").mkdir()
    for name in ("000010.rows", "000009.arrow", "1000000.rows", ".000011.rows.1-2.tmp", "x.rows", "000012.parquet"):
        (tmp_path / "live" / name).touch()
    assert [*live_files(tmp_path)] == [9, 10, 1_000_000]
    assert live_files(tmp_path)[9] == tmp_path / "live" / "000009.arrow"
    assert live_files(tmp_path / "gone") == {}


def test_of_parts_the_one_that_covers_more_counts_and_of_those_the_later_generation(tmp_path):
    names = [
        "000001",
        "000001-000004",
        "000001-000004.1",
        "000002.1",
        "000005",
        "000006.2",
        "000006.10",
        "000007-000008",
    ]
    (tmp_path / "parts").mkdir()
    for name in [*names, ".000009"]:
        (tmp_path / "parts" / f"{name}.parquet").touch()
    kept = [path.name.removesuffix(".parquet") for *_, path in part_files(tmp_path)]
    assert kept == ["000001-000004.1", "000005", "000006.10", "000007-000008"]
    assert {path.name.removesuffix(".parquet") for path in superseded(tmp_path)} == set(names) - set(kept)
    for first, last, generation, path in part_files(tmp_path):
        assert part_name(first, last, generation) == path.name


def test_a_run_writer_is_a_sink(tmp_path):
    sink: BlockSink = RunWriter(tmp_path)
    sink.write(1, "", {"loss": 1.0})
    sink.write_block(1, ("a", "b"), ("x",), [[1.0], [2.0]])
    sink.flush()
    sink.close()

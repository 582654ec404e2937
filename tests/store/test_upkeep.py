import itertools
import logging
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepscope.store import Run, RunWriter, parts, recorder, upkeep
from stepscope.store.format import part_files
from stepscope.store.parts import write_part
from stepscope.store.rows import merge, to_table
from stepscope.store.upkeep import Upkeep

SLOW = 3600.0


def write_parts(folder, tables):
    (folder / "parts").mkdir(parents=True)
    for number, rows in enumerate(tables, 1):
        columns = sorted({name for _, _, values in rows for name in values})
        write_part(folder / "parts" / f"{number:06d}.parquet", merge([to_table(rows, columns)]))


def everything(folder):
    tables = [parts.Part(file.path).read() for file in part_files(folder)]
    return merge(tables).to_pylist()


ROW = st.tuples(
    st.integers(0, 5), st.sampled_from("ab"), st.dictionaries(st.sampled_from("xy"), st.floats(0, 1), min_size=1)
)


@settings(max_examples=50)
@given(st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=2, max_size=12))
def test_parts_are_put_together_without_changing_a_value(tmp_path_factory, tables):
    folder = tmp_path_factory.mktemp("run")
    write_parts(folder, tables)
    before = everything(folder)
    Upkeep(folder).run()
    assert everything(folder) == before
    files = part_files(folder)
    assert [number for file in files for number in range(file.first, file.last + 1)] == list(range(1, len(tables) + 1))
    shutil.rmtree(folder)


def test_many_equal_parts_become_few_and_each_value_is_rewritten_rarely(tmp_path, monkeypatch):
    """256 parts, one by one. Its part at least doubles whenever a value is rewritten: log2(256) = 8 times at most."""
    written = []

    def write_and_count(path, sources, thinned=()):
        written.append(sum(source.rows for source in sources))
        write_part(path, sources, thinned)

    monkeypatch.setattr(upkeep, "write_part", write_and_count)
    (tmp_path / "parts").mkdir()
    keeper = Upkeep(tmp_path)
    for number in range(1, 257):
        write_part(tmp_path / "parts" / f"{number:06d}.parquet", to_table([(number, "a", {"x": 1.0})], ["x"]))
        keeper.run()
    assert len(part_files(tmp_path)) <= 6
    assert sum(written) <= 8 * 256
    assert [row["step"] for row in everything(tmp_path)] == list(range(1, 257))


def test_a_part_grows_to_a_bound_only(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "MOST_VALUES", 100)
    write_parts(tmp_path, [[(10 * n + k, "a", {"x": 1.0}) for k in range(10)] for n in range(100)])
    Upkeep(tmp_path).run()
    assert max(parts.Part(file.path).rows for file in part_files(tmp_path)) <= 100
    assert len(everything(tmp_path)) == 1000


def test_a_kill_at_any_moment_of_it_changes_nothing_for_readers(tmp_path, monkeypatch):
    """Stopped before each of the operations on files in turn, and finished by the next upkeep."""
    write_parts(tmp_path / "run", [[(n, "a", {"x": n}), (n + 1, "a", {"y": n})] for n in range(8)])
    before = everything(tmp_path / "run")

    class KilledError(BaseException):
        pass

    for moment in itertools.count():
        folder = tmp_path / f"{moment}"
        shutil.copytree(tmp_path / "run", folder)
        calls = itertools.count()

        def or_die(function, calls=calls, moment=moment):
            def stopped(*arguments, **options):
                if next(calls) == moment:
                    raise KilledError
                return function(*arguments, **options)

            return stopped

        with monkeypatch.context() as patch:
            patch.setattr(upkeep, "write_part", or_die(write_part))
            patch.setattr(type(folder), "unlink", or_die(type(folder).unlink))
            try:
                Upkeep(folder).run()
            except KilledError:
                finished = False
            else:
                finished = True
        assert everything(folder) == before
        Upkeep(folder).run()
        assert everything(folder) == before
        if finished:
            break
    assert moment > 8


# A budget ------------------------------------------------------------------------------------------------------------


def record(folder, steps, budget, monkeypatch, *, rare=0):
    """Noise in 20 columns of 10 layers at every step, and one more column every `rare` steps."""
    monkeypatch.setattr(recorder, "SEAL_BYTES", 100_000)
    noise = np.random.default_rng(0)
    layers, columns = tuple(f"layer {n}" for n in range(10)), tuple(f"x{n}" for n in range(20))
    sizes = []
    with RunWriter(folder, max_bytes=budget, bits=21, flush_seconds=SLOW) as run:
        for step in range(steps):
            run.write_block(step, layers, columns, noise.lognormal(size=(10, 20)))
            run.write(step, "", {"loss": 1 / (step + 1)})
            if rare and step % rare == 0:
                run.write(step, "layer 0", {"rare": step})
            if step % 50 == 0:
                run.flush()
                sizes.append(size_of(folder))
            if step == 1003:
                run.event("spike", step=step)
    return sizes


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_budget_is_kept_and_the_newest_stay_dense(tmp_path, monkeypatch, caplog):
    budget = 1 << 20
    sizes = record(tmp_path, 4000, budget, monkeypatch, rare=400)
    assert max(sizes) <= budget
    assert size_of(tmp_path) <= budget
    assert not caplog.records
    run = Run(tmp_path)
    kept = run.table("x0", layers="layer 3")["step"].to_numpy()
    assert kept[0] == 0
    assert kept[-1] == 3999
    newest = int(parts.Part(part_files(tmp_path)[-1].path).steps[0])
    assert set(range(newest, 4000)) <= set(kept.tolist())
    # Twice as far back, about half as many: the density falls with age, by a factor of 4 either way.
    density = [np.count_nonzero((kept >= a) & (kept < b)) / (b - a) for a, b in ((0, 2000), (2000, 3000), (3000, 3500))]
    assert density[0] < density[1] < density[2] or density[2] == 1
    assert 1003 in kept  # an event names it
    assert run.table("rare")["rare"].to_pylist() == list(range(0, 4000, 400))
    assert run.table("loss")["loss"].to_pylist() == [1 / (step + 1) for step in run.table("loss")["step"].to_pylist()]
    for first, last, n in run.thinned:
        inside = kept[(kept >= first) & (kept <= last)]
        assert n >= 2
        assert len(inside) < last - first + 1


def test_what_is_said_of_thinning_is_what_was_done(tmp_path, monkeypatch):
    record(tmp_path, 2500, 1 << 20, monkeypatch)
    run = Run(tmp_path)
    kept = run.table("x0", layers="layer 3")["step"].to_numpy()
    for first, last, n in run.thinned:
        inside = ((kept >= first) & (kept <= last)).sum()
        # A part keeps the first of every pair, and parts that were put together have edges: off by a few steps.
        assert abs(inside - (last - first + 1) / n) <= 2 + math.log2(n) + 0.1 * inside
    assert run.thinned


def test_without_a_budget_every_step_stays(tmp_path, monkeypatch):
    record(tmp_path, 1500, None, monkeypatch)
    assert len(Run(tmp_path).table("x0", layers="layer 3")) == 1500
    assert Run(tmp_path).thinned == []


def test_an_old_value_does_not_come_back_for_one_that_was_thinned_out(tmp_path):
    """Steps 0 to 99 were recorded twice, the second time from a checkpoint on: only second values may be seen."""
    (tmp_path / "parts").mkdir()
    for number, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
        steps = range(100) if number < 3 else range(1000, 1002)
        table = to_table([(step, "a", {"x": value}) for step in steps], ["x"])
        write_part(tmp_path / "parts" / f"{number:06d}.parquet", table)
    keeper = Upkeep(tmp_path, 1)
    assert "takes more than max_bytes" in keeper.run()
    found = everything(tmp_path)
    assert len(found) < 60
    assert {row["x"] for row in found} == {2.0, 3.0}


def test_a_budget_that_cannot_be_kept_is_said_once(tmp_path, monkeypatch, caplog):
    """One step of 200 layers and 50 columns takes 75 kB: 16 of them in each part stay, and the newest."""
    caplog.set_level(logging.WARNING, "stepscope.store")
    noise = np.random.default_rng(0)
    layers, columns = tuple(f"layer {n}" for n in range(200)), tuple(f"x{n}" for n in range(50))
    with RunWriter(tmp_path, max_bytes=1 << 20, flush_seconds=SLOW) as run:
        for step in range(30):
            run.write_block(step, layers, columns, noise.normal(size=(200, 50)))
            run.flush()
    assert Run(tmp_path).table("x0")["step"].to_numpy()[-1] == 29
    (record,) = caplog.records
    assert "takes more than max_bytes = 1,048,576" in record.getMessage()


def test_a_budget_too_small_to_mean_anything_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_bytes must be at least 1,048,576, got 1,000"):
        RunWriter(tmp_path, max_bytes=1000)
    with pytest.raises(ValueError, match="bits must lie between 8 and 53, got 60"):
        RunWriter(tmp_path, bits=60)

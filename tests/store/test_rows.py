import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.store.rows import Block, clean, grouped, is_column, merge, rounded, schema, table_of, to_table

COLUMNS = ("x", "y")


NAMES = st.sampled_from(["x", "y", "z"])
ROW = st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "ä", "b"]), st.dictionaries(NAMES, st.floats()))
ROWS = st.lists(ROW, max_size=30)


@given(st.lists(ROWS, max_size=4))
def test_merging_is_a_dictionary_that_is_updated_and_sorted(batches):
    expected = {}
    for step, layer, values in (row for rows in batches for row in rows):
        expected.setdefault((layer, step), {}).update(values)
    tables = []
    for rows in batches:
        columns = sorted({name for _, _, values in rows for name in values})
        tables.append(to_table(rows, columns))
    table = merge([schema(["x", "y", "z"]).empty_table(), *tables])
    found = {(row.pop("layer"), row.pop("step")): row for row in table.to_pylist()}
    assert list(found) == sorted(expected)
    for key, values in expected.items():
        assert str({name: values.get(name) for name in "xyz"}) == str(found[key])  # str: NaN is not equal to itself


def test_numbers_of_every_kind_are_taken():
    rows = [(np.int64(1), "a", {"x": 1, "y": np.float32(0.5)}), (2, "b", {"x": True, "y": None})]
    table = to_table(rows, COLUMNS)
    assert table["x"].to_pylist() == [1.0, 1.0]
    assert table["y"].to_pylist() == [0.5, None]


class Scalar:
    """Like a tensor of one element: no number for pyarrow, but it can become one."""

    def __float__(self):
        return 2.5


class Many:
    def __float__(self):
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


def test_what_is_no_number_costs_only_itself():
    rows = [
        (1, "a", {"x": Scalar(), "y": 10**30, "z": 1.0}),
        (2, "a", {"x": Many(), "y": 1.0}),
        (3, "a", {"x": "much", "y": 10**400}),
        (2**70, "a", {"x": 1.0}),
        (4, None, {"x": 1.0}),
        (5, "\udcff", {"x": 1.0}),
    ]
    kept, problem = clean(rows, COLUMNS)
    assert kept == [(1, "a", {"x": 2.5, "y": 1e30}), (2, "a", {"y": 1.0}), (3, "a", {})]
    assert problem == "x is no number but a Many"
    assert clean(rows[3:4], COLUMNS)[1] == "step and layer of a row must be a 64-bit integer and text, got int and str"
    for row in rows:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            to_table([row], COLUMNS)
    to_table(kept, COLUMNS)
    assert clean(kept, COLUMNS) == (kept, "")


def test_names_of_columns():
    assert is_column("update/|w|, größer 1")
    for name in ("", "step", "layer", "a\nb", "\udcff", 3, None, ("a",)):
        assert not is_column(name)


STEP_BLOCK = st.tuples(st.integers(0, 3), st.sampled_from([("a", "b"), ("b", "c"), ("a",)]), st.floats(0, 1))


@given(
    st.lists(STEP_BLOCK | st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "d"]), st.floats(0, 1)), max_size=12)
)
def test_blocks_and_rows_are_a_dictionary_that_is_updated(items):
    """In the order of writing, though blocks and rows that cannot meet are put together out of order."""
    expected, written = {}, []
    for number, (step, where, value) in enumerate(items):
        if isinstance(where, tuple):
            values = np.full((len(where), 2), value) + np.arange(2)
            steps = step if number % 2 else np.full(len(where), step)
            written.append(Block(steps, where, ("x", "y"), values))
            for layer in where:
                expected.setdefault((layer, step), {}).update(x=value, y=value + 1)
        else:
            written.append((step, where, {"x": value, "n": number}))
            expected.setdefault((where, step), {}).update(x=value, n=number)
    tables = [table_of(blocks) if blocks else to_table(rows, ["x", "n"]) for blocks, rows in grouped(written)]
    table = merge([schema(["x", "y", "n"]).empty_table(), *tables])
    found = {(row.pop("layer"), row.pop("step")): row for row in table.to_pylist()}
    assert found == {key: {name: values.get(name) for name in "xyn"} for key, values in expected.items()}


def test_rows_of_the_run_and_blocks_of_its_layers_alternate_without_many_tables():
    block = np.zeros((1, 1))
    items = [item for step in range(9) for item in (Block(step, ("a",), ("x",), block), (step, "", {"loss": 1.0}))]
    assert len(list(grouped(items))) == 2


@given(st.floats(width=64), st.integers(8, 52))
def test_rounding_is_to_the_nearest_number_of_so_many_bits(value, bits):
    """Against exact fractions: no number of so many bits lies nearer."""
    table = to_table([(1, "a", {"x": value}), (1, "", {"x": value})], ["x"])
    near, exact = rounded(table, bits)["x"].to_pylist()
    assert str(exact) == str(value)
    if not math.isfinite(value) or value == 0:
        assert str(near) == str(value)
        return
    _, exponent = math.frexp(value)
    # Numbers near float64's least ones have fewer bits to begin with: the pattern's last bits, whatever they are worth.
    unit = Fraction(2) ** max(exponent - bits, -1074 + 53 - bits)
    assert Fraction(near) % unit == 0 or abs(near) >= 1.7976e308
    assert abs(Fraction(near) - Fraction(value)) <= unit / 2 or abs(near) >= 1.7976e308


def test_rounding_leaves_alone_what_was_not_written_and_what_would_become_infinite():
    table = to_table([(1, "a", {"x": 1.7976931348623157e308}), (2, "a", {"y": 1.0})], COLUMNS)
    assert rounded(table, 24).equals(table)
    assert rounded(table, 53) is table
    floats = np.float32(np.random.default_rng(0).lognormal(size=100)).astype(float)
    table = to_table([(n, "a", {"x": value}) for n, value in enumerate(floats)], COLUMNS)
    assert rounded(table, 24).equals(table)  # float32 has 24 bits

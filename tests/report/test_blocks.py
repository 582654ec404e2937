from hypothesis import given
from hypothesis import strategies as st

from stepscope.report.blocks import blocks

NAMES = st.lists(
    st.lists(st.sampled_from(["a", "b", "0", "1", "weight"]), min_size=1, max_size=4).map(".".join),
    min_size=1,
    max_size=40,
    unique=True,
)


@given(NAMES, st.integers(1, 12))
def test_every_layer_is_in_one_block_and_there_are_few(names, most):
    found = blocks(names, most)
    assert 0 < len(found) <= most
    assert sorted(place for block in found for place in block.members) == list(range(len(names)))


def test_a_thousand_layers_become_their_blocks():
    names = [f"model.layers.{n}.{part}.weight" for n in range(100) for part in ("q", "k", "v", "o", "up", "down")]
    found = blocks(names, 128)
    assert [block.name for block in found[:2]] == ["model.layers.0", "model.layers.1"]
    assert {len(block.members) for block in found} == {6}


def test_one_beginning_of_all_names_is_no_block():
    names = [f"net.{n // 4}.part{n % 4}" for n in range(1000)]
    found = blocks(names, 50)
    assert len(found) == 50
    assert found[1].name == "net.5 … net.9"
    assert {len(block.members) for block in found} == {20}


def test_few_layers_stay_what_they_are():
    assert [block.name for block in blocks(["b.weight", "a.weight"], 5)] == ["b.weight", "a.weight"]

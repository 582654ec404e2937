import numpy as np
import pytest

from stepscope.report import raster
from stepscope.report.heatmaps import Scale, heatmap, scale_of


def test_levels_follow_the_values_and_end_at_the_ends():
    scale = Scale(1.0, 100.0, log=True)
    values = np.array([0.0, -1.0, 1.0, 10.0, 100.0, 1e9, np.nan])
    assert scale.levels(values).tolist() == [0, 0, 0, 32, 63, 63, raster.EMPTY]
    assert Scale(-2.0, 2.0, log=False).levels(np.array([-3.0, -2.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 32, 48, 63]
    assert Scale(5.0, 5.0, log=False).levels(np.array([5.0, 5.0])).tolist() == [32, 32]


def test_the_scale_is_logarithmic_where_positive_values_span_a_decade():
    assert scale_of(np.full(3, np.nan)) is None
    assert scale_of(np.geomspace(1e-4, 1, 100)).log
    assert not scale_of(np.linspace(0.5, 1, 100)).log
    assert not scale_of(np.linspace(-1, 1, 100)).log
    few = np.r_[np.zeros(90), np.geomspace(1e-4, 1, 10)]  # most are 0: a log scale would show few
    assert not scale_of(few).log


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_heatmap_names_its_rows_and_says_what_it_shows(rows):
    names = [f'block{n}.<"&>' for n in range(rows)]
    values = np.random.default_rng(0).lognormal(size=(rows, 50))
    broken = np.zeros(values.shape, bool)
    broken[0, 3] = True
    edges = np.linspace(0, 500, 51)
    picture = heatmap("heat-1", names, edges, values, broken, scale_of(values), "spread <x>")
    assert 'id="heat-1"' in picture
    assert "&lt;&quot;&amp;&gt;" in picture
    assert "spread &lt;x&gt;" in picture
    assert f"{rows} rows, steps 0 to 499" in picture
    assert "not finite" in picture
    assert picture.count("<image") == 2

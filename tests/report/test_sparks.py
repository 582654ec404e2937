import re

import numpy as np

from stepscope.report.sparks import spark


def test_a_line_stays_within_its_picture_and_leaves_out_what_is_not_there():
    steps = np.arange(20.0)
    mean = np.where(steps == 7, np.nan, 1 + steps)
    picture = spark(steps, mean, mean - 0.5, mean + 0.5, 'a "name" & more')
    band, line = re.findall(r' d="M([^"]*)"', picture)
    points = np.array([float(word) for word in line.split()]).reshape(-1, 2)
    assert len(points) == 19
    assert np.all(np.diff(points[:, 0]) >= 0)
    assert np.all(np.diff(points[:, 1]) <= 0)  # it rises
    for words in (line, band.rstrip("z")):
        numbers = np.array([float(word) for word in words.split()]).reshape(-1, 2)
        assert numbers[:, 0].min() >= 0
        assert numbers[:, 0].max() <= 160
        assert numbers[:, 1].min() >= 0
        assert numbers[:, 1].max() <= 30
    assert "&#34;name&#34; &amp; more" in picture


def test_one_value_is_a_dash_and_none_is_nothing():
    one = np.array([3.0])
    assert "h4" in spark(one, one, one, one, "x")
    assert spark(one, np.array([np.nan]), one, one, "x") == ""

import base64
import io

import matplotlib.image
import numpy as np

from stepscope.report import raster


def read(address):
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")


def test_a_picture_read_by_another_library_has_the_colours_of_the_cells():
    cells = np.array([[0, 63, raster.EMPTY], [raster.BROKEN, 10, 31]], np.uint8)
    pixels = read(raster.image(cells, "size"))
    assert pixels.shape == (2, 3, 4)
    scale = matplotlib.colormaps["viridis"](np.linspace(0.06, 0.97, raster.LEVELS))
    for place, level in (((0, 0), 0), ((0, 1), 63), ((1, 1), 10), ((1, 2), 31)):
        np.testing.assert_allclose(pixels[place], scale[level], atol=1 / 255)  # eight bits a colour
    assert pixels[0, 2, 3] == 0  # nothing there: the page shines through
    assert pixels[1, 0, 3] == 1
    assert pixels[1, 0, 0] > 3 * pixels[1, 0, 1]  # a red that no scale has

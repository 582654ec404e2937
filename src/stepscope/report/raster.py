"""Pictures made of cells, as PNG files small enough to live inside a page."""

import base64
import struct
import zlib

import matplotlib
import numpy as np
from numpy.typing import NDArray

__all__ = ["BROKEN", "EMPTY", "LEVELS", "MAPS", "image"]

LEVELS = 64
EMPTY, BROKEN = LEVELS, LEVELS + 1
"""Cells without a value, which let the page shine through, and cells with values that are not finite."""
_BROKEN_COLOUR = (225, 40, 120)


def _palette(name: str, low: float, high: float) -> bytes:
    colours = matplotlib.colormaps[name](np.linspace(low, high, LEVELS))[:, :3]
    return (np.round(255 * colours).astype(np.uint8)).tobytes() + bytes((0, 0, 0, *_BROKEN_COLOUR))


# Neither end may sink into a white or a dark page.
MAPS = {"size": ("viridis", 0.06, 0.97), "difference": ("coolwarm", 0.0, 1.0)}


def image(cells: NDArray[np.uint8], colours: str) -> str:
    """The address of a picture of ``cells`` [row, column]: levels 0 to 63 of a scale in ``MAPS``, EMPTY or BROKEN."""
    height, width = cells.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), cells], axis=1).tobytes()  # each row begins with its filter
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", _palette(*MAPS[colours])),
        (b"tRNS", bytes([255] * LEVELS + [0, 255])),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()

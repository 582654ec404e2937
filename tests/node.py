"""Running emitted JavaScript in Node, with arrays of float64 that keep their bits."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepscope.graph.javascript import runtime

__all__ = ["needs_node", "node"]

NODE = next(filter(None, map(shutil.which, ("node", "nodejs"))), None)
needs_node = pytest.mark.skipif(NODE is None, reason="needs node to run the emitted JavaScript")

_TOP = """
import fs from "node:fs";
import * as R from "./runtime.mjs";
const given = (name) => {
  const b = fs.readFileSync(`${name}.f64`);
  return new Float64Array(b.buffer.slice(b.byteOffset, b.byteOffset + b.length));
};
const give = (name, array) => fs.writeFileSync(`${name}.f64`, Buffer.from(Float64Array.from(array).buffer));
"""


def node(folder: Path, script: str, modules: Mapping[str, str] = {}, **arrays: Any) -> dict[str, Any]:
    """Run a module that reads `given(name)`, has the runtime as R, imports `./<module>.mjs`, and hands over by `give`.

    Returns what was given by name, as arrays.
    """
    (folder / "runtime.mjs").write_text(runtime(), "utf-8")
    for name, text in modules.items():
        (folder / f"{name}.mjs").write_text(text, "utf-8")
    for name, array in arrays.items():
        np.asarray(array, "<f8").tofile(folder / f"{name}.f64")
    (folder / "main.mjs").write_text(_TOP + script, "utf-8")
    done = subprocess.run([str(NODE), "main.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    out = {path.stem: np.fromfile(path, "<f8") for path in folder.glob("*.f64")}
    return {name: array for name, array in out.items() if name not in arrays} | {"printed": done.stdout}

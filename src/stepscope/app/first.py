"""What the playground's first scene needs, as a file of the page: it then plays before its server can compute.

    python -m stepscope.app.first        writes static/first.js again, as `make web` does

Printed by the same functions that answer the page's questions; a test prints it again and compares.
"""

import json
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlencode

from stepscope.app import api_play
from stepscope.app.endpoint import Call, Endpoint, Text, accept, plain

__all__ = ["first"]

RULES = ("sgd", "heavy_ball", "rmsprop", "adam")
LANDSCAPE = "ellipse"


def first() -> str:
    """A script that leaves the catalogue, and the programs by their addresses, in `window.stepscopeFirst`."""
    asked: list[tuple[Endpoint, dict[str, str]]] = [
        (api_play.landscape_program, {"landscape": LANDSCAPE}),
        *((api_play.path_program, {"rule": rule, "landscape": LANDSCAPE, "noise": "none"}) for rule in RULES),
        (api_play.curves_program, {}),
    ]
    programs = []
    for one, query in asked:
        answer = one.function(accept(one.takes, query), Call())
        assert isinstance(answer, Text)
        address = f"{one.path}?{urlencode(query)}" if query else one.path
        maker = answer.content.removeprefix("export default ").strip().removesuffix(";")
        programs.append(f"{json.dumps(address)}: {maker}")
    catalogue = plain(api_play.catalogue.function(accept(api_play.catalogue.takes, {}), Call()))
    told = json.dumps(catalogue, ensure_ascii=False, separators=(",", ":"))
    listed = ",\n".join(programs)
    return f"window.stepscopeFirst = {{ catalogue: {told}, programs: {{\n{listed}\n}} }};\n"


if __name__ == "__main__":
    Path(str(files("stepscope.app") / "static" / "first.js")).write_text(first(), "utf-8")

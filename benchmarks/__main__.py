"""`python -m benchmarks [NAME ...]`: measure, print, and keep the rows in results/ with machine and versions."""

import importlib
import sys
from pathlib import Path

from stepscope import store

HERE = Path(__file__).parent


def _said(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    unit, scale = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)) if seconds * s >= 1 or u == "ns"
    )
    return f"{seconds * scale:.2f} {unit}"


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all of them."""
    known = sorted(path.stem for path in HERE.glob("[!_]*.py"))
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        rows = importlib.import_module(f"benchmarks.{name}").measure()
        print(f"\n{name}")
        for row in rows:
            ratio = f"{row['ratio']:8.2f} x {row['to']}" if "ratio" in row else ""
            cost = _said(row["seconds"]) if "seconds" in row else f"{row['bytes_per_value']:.2f} B"
            print(f"  {row['what']:<72} {cost:>10} {ratio}")
        if not rows:  # what it needs is not here; what was measured elsewhere stays
            continue
        target = HERE / "results" / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        environment = store.provenance(command=["python", "-m", "benchmarks", name])
        store.write_json(target, {"benchmark": name, "rows": rows, "environment": environment})


if __name__ == "__main__":
    main(sys.argv[1:])

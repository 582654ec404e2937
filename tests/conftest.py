"""What every test shares: deterministic property tests, no display, one thread a process."""

import os

from hypothesis import settings

# Before anything imports torch or matplotlib. `make test` sets the same; a bare `pytest` gets it here.
for name, value in {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)

# Examples do not change from run to run, so a red run can be repeated; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

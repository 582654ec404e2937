"""The results that most tests of the report share, and their page, written once."""

from pathlib import Path
from typing import Any

import pytest
from tests.report.sample import make_results

from stepscope import report


@pytest.fixture(scope="session")
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture(scope="session")
def page(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(results, tmp_path_factory.mktemp("report") / "report.html")

"""A report that several tests look at; it is drawn once."""

from pathlib import Path

import pytest
from made_up import three_methods

from clbench.report.writer import write_report
from clbench.results.frames import Results


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The folder of a report on three methods, and the names of its files."""
    folder = tmp_path_factory.mktemp("new") / "made/report"
    paths = write_report(Results(three_methods()), folder)
    return folder, {path.relative_to(folder).as_posix() for path in paths}

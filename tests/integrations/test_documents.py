"""The code of docs/integrations.md runs as it stands there, and its table is that of the CSV."""

import re
import warnings
from pathlib import Path

import pytest

from benchmarks.command import DOCS, RESULTS
from benchmarks.setups.page import with_table
from benchmarks.setups.setup import Row, all_setups
from benchmarks.table import read_csv

PAGE = (DOCS / "integrations.md").read_text()
SECTIONS = {"Lightning": "lightning", "transformers": "transformers", "accelerate": "accelerate", "timm": "timm"}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_code_of_a_section_runs_and_prints_what_it_says(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, behind = PAGE.partition(f"\n## {section}\n")
    found = re.findall(r"```python\n(.*?)```", behind.partition("\n## ")[0], flags=re.S)
    assert found
    names: dict[str, object] = {"__name__": "integrations"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(SECTIONS[section])
        for block in found:
            exec(compile(block, "integrations.md", "exec", dont_inherit=True), names)
    printed = capsys.readouterr().out
    for said in re.findall(r"print\(.*\)  # (.*)", "\n".join(found)):
        assert said in printed


def test_the_table_is_that_of_the_csv_and_has_every_set_up() -> None:
    rows = read_csv(Row, RESULTS / "setups.csv")
    assert with_table(PAGE, rows) == PAGE
    assert [row.setup for row in rows] == list(all_setups())

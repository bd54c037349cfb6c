"""The code of the documents runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.S)


def test_the_quickstart_trains_rejuvenates_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script, *rest = blocks("quickstart.md")
    assert len([line for line in script.splitlines() if line.strip()]) <= 30
    names: dict[str, object] = {}
    exec(compile(script, "quickstart.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "step 100  r = 1.00" in printed and "rejuvenated" in printed
    for block in rest:
        exec(compile(block, "quickstart.md", "exec"), names)
    assert (tmp_path / "digits.safetensors").exists()

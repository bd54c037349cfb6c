"""The page in a browser: no error, nothing too wide, readable in light and dark, and what is clicked shows.

It needs Chromium; without one these tests are skipped. A window is 500 pixels wide at least: the pages are in frames.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import nrfx
from nrfx.report.html import cell, page
from tests.report.networks import traced
from tests.report.test_utilization import hooked

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with")

PROBE = """
const told = (name) => {
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const bright = (text) => { const [r, g, b] = colour(text).slice(0, 3).map((x) => { x /= 255;
    return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (element) => { for (let at = element; at; at = at.parentElement) {
    const found = getComputedStyle(at).backgroundColor; if (colour(found)[3] !== 0) return found; }
    return "rgb(255, 255, 255)"; };
  const contrasts = {};
  for (const query of ["h1", ".verdict", ".caption", ".warning", ".settings dt", ".hint", ".name .path", ".name b",
                       ".graph .width", "td", "td:last-child", "thead th", ".state", ".fact", "code", "#theme"])
    for (const element of document.querySelectorAll(query)) {
      if (!element.getClientRects().length) continue;
      const pair = [bright(getComputedStyle(element).color), bright(behind(element))].sort((a, b) => b - a);
      contrasts[query] = Math.min(contrasts[query] || 99, (pair[0] + .05) / (pair[1] + .05));
    }
  return { name, wide: document.documentElement.scrollWidth - innerWidth, contrasts,
           page: getComputedStyle(document.body).backgroundColor };
};
addEventListener("load", () => {
  const seen = [told("first")];
  document.getElementById("theme").click();
  seen.push(told("other theme"));
  const link = document.querySelector('.graph a[href="#l2"]');
  link.focus(); link.click();
  seen.push({ ...told("a layer"), shown: [...document.querySelectorAll("article")].filter((each) => each.offsetParent ||
    each.getClientRects().length).map((each) => each.id), focus: document.activeElement.id });
  dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  const closed = document.querySelectorAll("article.open").length;
  const back = document.activeElement === link;
  const column = [...document.querySelectorAll("thead th")].findIndex((each) => each.textContent.startsWith("Params"));
  document.querySelectorAll("thead th")[column].querySelector("button").click();
  const sorted = [...document.querySelectorAll("tbody tr")].map((row) => Number(row.cells[column].dataset.sort));
  const input = document.querySelector(".find input");
  input.value = "layer2.1"; input.dispatchEvent(new Event("input"));
  const found = [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
  const names = found.map((row) => row.cells[0].textContent);
  parent.postMessage({ file: location.pathname, width: innerWidth, seen, closed, back, sorted, names, errors }, "*");
});
"""


OUTSIDE = """
const told = [];
addEventListener("message", (event) => { told.push(event.data); document.body.dataset.told = JSON.stringify(told); });
addEventListener("load", () => { document.body.dataset.cells = document.getElementById("cells").scrollWidth; });
"""


def pages() -> dict[str, tuple[int, str]]:
    """File -> the width of its frame, and a page."""
    gm = traced("resnet")
    plain = page(nrfx.utilization(gm), "resnet")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    return {
        "narrow": (400, plain),
        "wide": (1400, plain),
        "rewritten": (400, page(result, "a_long_name_of_a_network." * 4)),
        "unseen": (400, page(hooked(slice(None)))),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_work_at_every_width_in_light_and_dark(dark: bool, tmp_path: Path) -> None:
    shown = pages()
    found = probed(shown, dark, tmp_path)
    assert found.keys() == shown.keys()
    for name, (width, _) in shown.items():
        told = found[name]
        assert told["errors"] == [] and told["width"] == width
        for seen in told["seen"]:
            assert seen["wide"] <= 0, (name, seen)
            assert min(seen["contrasts"].values()) >= 4.5, (name, seen)
        first, other, layer = told["seen"]
        assert first["page"] != other["page"] and (first["page"] == "rgb(23, 22, 20)") == dark
        assert layer["shown"] == ["l2"] and layer["focus"] == "l2"
        assert told["closed"] == 0 and told["back"]
        assert told["sorted"] == sorted(told["sorted"], reverse=True) and len(told["sorted"]) > 3
        assert all(text.startswith("layer2.1") for text in told["names"])
    assert len(found["narrow"]["names"]) == 2 and "contrasts" in found["narrow"]["seen"][0]


def probed(shown: dict[str, tuple[int, str]], dark: bool, folder: Path) -> dict[str, Any]:
    """What the probe saw of each page. Outputs of cells stand beside them, and must fit 700 pixels."""
    first = '<script>const errors = []; addEventListener("error", (event) => errors.push(event.message));</script>'
    frames = ""
    for name, (width, text) in shown.items():
        probe = text.replace("<head>", f"<head>{first}").replace("</body>", f"<script>{PROBE}</script></body>")
        (folder / f"{name}.html").write_text(probe, encoding="utf-8")
        frames += f'<iframe src="{name}.html" style="width:{width}px;height:900px;border:0"></iframe>'
    gm = traced("resnet")
    cells = cell(nrfx.utilization(gm)) + cell(nrfx.why(gm, "layer2.0.conv2"))
    body = f'{frames}<div id="cells" style="width:700px">{cells}</div><script>{OUTSIDE}</script>'
    (folder / "all.html").write_text(f"<!DOCTYPE html><body>{body}</body>", encoding="utf-8")
    dom = opened(folder / "all.html", dark, folder)
    (told,), (wide,) = (re.findall(f'data-{name}="([^"]*)"', dom) for name in ("told", "cells"))
    assert int(wide) <= 700
    seen = json.loads(told.replace("&quot;", '"').replace("&amp;", "&"))
    return {Path(each["file"]).stem: each for each in seen}


def opened(file: Path, dark: bool, folder: Path) -> str:
    """The page as it is once the browser has run it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--window-size=1500,1000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    run = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout

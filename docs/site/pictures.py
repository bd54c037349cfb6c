"""The pictures of docs/ that show nrfx itself: `python docs/site/pictures.py`, once the site is built; needs Chromium.

terminal_80.png, terminal_160.png    the report of a ResNet-18 with dead channels, as a terminal shows it
site.png                             the site, in light and dark, at 1400 and 400 pixels
"""

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageChops
from rich.console import Console
from torchvision.models import resnet18

import nrfx
from nrfx.report.utilization import utilization_report

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; width: {0}px; height: {1}px }}</style>
<iframe src="{2}"></iframe>"""


@torch.no_grad()
def wasteful() -> nrfx.TracedModule:
    """A ResNet-18 in which more channels are dead the deeper they lie."""
    generator = torch.Generator().manual_seed(0)
    model = resnet18()
    for name, gamma in model.named_parameters():
        if "bn" in name and name.endswith("weight"):
            depth = int(name[5]) if name.startswith("layer") else 0
            gamma[torch.rand(len(gamma), generator=generator) < 0.15 * depth] = 0
    return nrfx.trace(model, torch.zeros(1, 3, 224, 224))


def picture(page: Path, width: int, height: int, dark: bool = False) -> Image.Image:
    """A page in a frame of that width, for a window is 500 pixels wide at least."""
    with tempfile.TemporaryDirectory() as folder:
        frame, file = Path(folder, "frame.html"), Path(folder, "picture.png")
        frame.write_text(FRAME.format(width, height, page.as_uri()))
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
        options += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
        size = f"--window-size={max(width, 500)},{height}"
        command = [CHROMIUM, *options, size, f"--screenshot={file}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(file) as image:
            return image.convert("RGB").crop((0, 0, width, height))


def terminal(gm: nrfx.TracedModule, columns: int) -> Image.Image:
    """The report as a terminal of so many columns shows it, in its colours."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(utilization_report(nrfx.utilization(gm)))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "terminal.html")
        page.write_text(console.export_html(inline_styles=True, code_format=TERMINAL), encoding="utf-8")
        lines = page.read_text(encoding="utf-8").count("\n")
        return cropped(picture(page, 9 * columns + 40, 18 * lines + 40))


TERMINAL = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0; background: #fbfaf7 }}
pre {{ font: 14px/17px "DejaVu Sans Mono", monospace; margin: 16px; color: #17202a }}</style><pre>{code}</pre>"""


def cropped(image: Image.Image) -> Image.Image:
    """Without the empty rows at its end."""
    ground = Image.new("RGB", image.size, image.getpixel((0, 0)))
    _, _, right, low = ImageChops.difference(image, ground).getbbox() or (0, 0, *image.size)
    return image.crop((0, 0, min(right + 16, image.width), min(low + 16, image.height)))


def site() -> Image.Image:
    """Four views of the site, beside each other."""
    pages = ROOT / "build" / "site" / "docs"
    views = [
        picture(pages / "index.html", 1400, 1000), picture(pages / "api" / "rewriting.html", 1400, 1000, dark=True),
        picture(pages / "tutorial.html", 400, 1000), picture(pages / "index.html", 400, 1000, dark=True),
    ]  # fmt: skip
    places = [(0, 0), (0, 1020), (1420, 0), (1420, 1020)]
    sheet = Image.new("RGB", (1820, 2020), "#8a8a8a")
    for view, place in zip(views, places, strict=True):
        sheet.paste(view, place)
    return sheet.resize((819, 909), Image.Resampling.LANCZOS)


def main() -> None:
    gm = wasteful()
    pictures = {"terminal_80": terminal(gm, 80), "terminal_160": terminal(gm, 160), "site": site()}
    for name, image in pictures.items():
        image.quantize(160).save(ROOT / "docs" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

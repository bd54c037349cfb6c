"""The tests of nrfx.integrations; a package that is not installed is an error here."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console

from benchmarks.command import ROOT, parser_of

PACKAGES = ("accelerate", "lightning", "tensorboard", "timm", "transformers")


def main(arguments: Sequence[str]) -> int:
    """Runs the tests, and names the packages that are not installed; 1 if one is not, or a test fails."""
    parser_of("integrations", __doc__).parse_args(arguments)
    import pytest  # noqa: PLC0415 (only here)

    console = Console()
    missing = [package for package in PACKAGES if _version(package) is None]
    console.print(", ".join(f"{package} {_version(package) or 'is not installed'}" for package in PACKAGES))
    failed = pytest.main(
        ["-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests/integrations")]
    )
    if missing:
        console.print(f"Not tried for want of a package: pip install 'nrfx[integrations]' brings {', '.join(missing)}.")
    return 1 if missing or failed else 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

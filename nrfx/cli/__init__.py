"""The command line: one function a command."""

from nrfx.cli.commands import main

__all__ = ["main"]

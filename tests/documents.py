"""The pages of the project, and what of them can be run: blocks of Python, and commands of the shell."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

from benchmarks.__main__ import BENCHMARKS
from nrfx.cli.parser import arguments_parser

ROOT = Path(__file__).parent.parent
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its code, and the text block directly behind it, if there is one."""

    language: str
    code: str
    line: int
    section: str
    output: str | None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = [*re.finditer(r"^ *```(\w+)\n(.*?)^ *```$", text, flags=re.M | re.S)]
    blocks = []
    for match, behind in pairwise([*found, None]):
        assert match is not None
        follows = behind is not None and behind[1] == "text" and text[match.end() : behind.start()] == "\n\n"
        before = text[: match.start()]
        section = (re.findall(r"^## (.*)$", before, flags=re.M) or [""])[-1]
        output = behind[2] if follows and behind is not None else None
        blocks.append(Block(match[1], dedent(match[2]), before.count("\n") + 2, section, output))
    return blocks


def commands_of(page: Path) -> Iterator[str]:
    """The lines of the shell blocks of a page, and those behind a `$` in its text blocks."""
    for block in blocks_of(page):
        if block.language == "sh":
            yield from filter(None, re.sub(r" *\\\n *", " ", block.code).splitlines())
        elif block.language == "text":
            yield from re.findall(r"^\$ (.*)$", block.code, flags=re.M)


def mentions_of(page: Path) -> list[str]:
    """The commands in backquotes in the prose of a page. Of these, arguments may be left out."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"`(nrfx [a-z][^`]*)`", prose)


def runs(command: str) -> list[list[str]]:
    """The single commands of a line: words, without comments and what joins them."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";", "|"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def check_command(words: list[str]) -> None:
    """Raises UsageError or AssertionError for a command that its program would refuse for how it is written."""
    program, *rest = Path(words[0]).name, *words[1:]
    if program == "torchrun":
        at = rest.index("-m")
        program, rest = "python", rest[at:]
    if program in ("python", "python3") and rest[0] == "-m":
        program, rest = rest[1], rest[2:]
    if program == "nrfx":
        arguments_parser().parse_args(rest)
    elif program == "benchmarks":
        check_benchmark(rest)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in rest:
            assert set(re.findall(r"[\w-]+", (re.findall(r"\[(.*)\]", word) or [""])[0])) <= set(extras), word
    elif program.startswith("tests."):
        file = ROOT / f"{program.replace('.', '/')}.py"
        assert all(f'"{word}"' in file.read_text() for word in rest if word.startswith("--")), words
    elif program == "python":
        assert (ROOT / rest[0]).exists(), words
    else:
        assert program in ("pytest", "ruff", "mypy", "venv", "sphinx", "sphinx-build", "build", "git", "cd"), words
        assert all((ROOT / word).exists() for word in rest if word.startswith(("tests/", "docs/"))), words


def check_mention(words: list[str]) -> None:
    """Raises AssertionError for a command of nrfx, or an option of one, that does not exist."""
    (commands,) = (action for action in arguments_parser()._actions if isinstance(action, argparse._SubParsersAction))
    _, name, *rest = words
    assert name in commands.choices, words
    options = {option for action in commands.choices[name]._actions for option in action.option_strings}
    assert {word for word in rest if word.startswith("-")} <= options, words


def check_benchmark(words: list[str]) -> None:
    """Raises AssertionError for a benchmark, or an option of one, that does not exist."""
    name, *rest = words
    assert name in BENCHMARKS, words
    files = (f"{BENCHMARKS[name].replace('.', '/')}.py", "command.py")
    text = "".join((ROOT / "benchmarks" / file).read_text() for file in files)
    assert all(f'"{word}"' in text for word in rest if word.startswith("--")), words

"""In which files the classes int, float and type may be exchanged."""

import ast
import linecache
import textwrap
from pathlib import Path

import pytest

from nrfx.tracing.values.plain import _blocks, _is_only_called

FILES = {
    "a call": ("def f(x):\n    return int(x.shape[0])\n", True),
    "a call, a question and a comparison": (
        "def f(x):\n    return int(x) if isinstance(x, int) or type(x) == int else 0\n",
        True,
    ),
    "mapped": ("def f(x):\n    return list(map(int, x.shape))\n", True),
    "identity": ("def f(x):\n    return int(x) if type(x) is int else 0\n", False),
    "identity in another function": ("def g(kind):\n    return kind is int\n\n\ndef f(x):\n    return int(x)\n", False),
    "handed on": ("def f(x):\n    return int(x), x.to(int)\n", False),
    "no call": ("def f(x):\n    print(x)\n    return isinstance(x, int)\n", False),
    "another name": ("def f(x):\n    return x.int(), randint(3), isinstance(x, int)\n", False),
    "when the file is imported": ("KINDS = {'int': int}\n\n\ndef f(x):\n    return int(x)\n", True),
    "annotations": ("def f(x: int) -> int:\n    y: int = int(x)\n    return y\n", True),
    "decorators over several lines": (
        "@first(\n    1,\n)\n@second\nclass A:\n    def f(self, x):\n        return int(x)\n",
        True,
    ),
    "else at the top": (
        "try:\n    import fast\nexcept ImportError:\n    def f(x):\n        return int(x)\nelse:\n    f = fast.f\n",
        True,
    ),
    "text that looks like statements": (
        'def f(x):\n    """\nint(x) is an int, and\nreturn kind is int\n"""\n    return int(x)\n',
        True,
    ),
    "no Python": ("def f(x:\n    return int(x)\n", False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_class_is_exchanged_where_a_file_only_calls_it(name: str, tmp_path: Path) -> None:
    source, expected = FILES[name]
    file = tmp_path / "model.py"
    file.write_text(source)
    assert _is_only_called(str(file), "int") is expected


def test_the_blocks_of_a_file_are_its_statements() -> None:
    lines = linecache.getlines(str(Path(textwrap.__file__)))
    whole = ast.parse("".join(lines))
    blocks = _blocks(lines)
    assert len(blocks) > 10
    trees = [ast.parse("".join(block)) for block in blocks]
    assert [ast.dump(each) for tree in trees for each in tree.body] == [ast.dump(each) for each in whole.body]


HIDDEN = """
def f(x):
    a = '''
name
'''
    b = x.to(int)
    c = '''
name
'''
    return b


def g(x):
    return int(x.shape[0])
"""


def test_code_between_two_strings_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(HIDDEN)
    assert not _is_only_called(str(file), "int")


TEXT = "import re\n\nUSED = '''\nname of it\n'''\n\n\ndef f(x):\n    return int(x)\n"

ODD = {
    "a string at the top": (TEXT, 3),
    "quotes in a comment": ("a = 1  # three: '''\n" + TEXT, 1),
    "quotes in a string": ("a = \"'''\"\n" + TEXT, 1),
    "quotes behind a backslash": (TEXT.replace("of it", "of it\\'''"), 1),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_is_cut_where_it_is_plain_which_lines_are_of_a_string(name: str) -> None:
    source, count = ODD[name]
    assert len([block for block in _blocks(source.splitlines(keepends=True)) if block]) == count


FAR = """
class A:
    def f(self, x):
        return x + 1

    def g(self, x):
        @register(lambda x: x.to(int))
        def inner(y):
            return y

        return inner(x)

    def h(self, x):
        return int(x.shape[0])
"""

IN_STRING = """
def f(x):
    text = f'''
    {{}}
    { x.to(
        int) }
    '''
    return int(x.shape[0]), text
"""


@pytest.mark.parametrize("source", [FAR, IN_STRING])
def test_code_is_seen_wherever_it_stands_in_a_function(source: str, tmp_path: Path) -> None:
    file, other = tmp_path / "model.py", tmp_path / "other.py"
    file.write_text(source)
    assert not _is_only_called(str(file), "int")
    other.write_text(source.replace("x.to(int)", "x").replace("x.to(\n        int)", "x"))
    assert _is_only_called(str(other), "int")

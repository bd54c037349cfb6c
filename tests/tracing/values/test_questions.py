"""Which files the questions of a forward are looked for in."""

import os
import sys
from types import ModuleType

import pytest
import torch

from nrfx.tracing.values.questions import _is_of_python


def test_a_file_of_the_user_with_the_name_of_one_of_python_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("code")
    own.__file__ = "/home/somebody/code.py"
    assert not _is_of_python(vars(own))
    monkeypatch.setitem(sys.modules, "code", own)
    assert not _is_of_python(vars(own))
    assert not _is_of_python(vars(torch))
    assert not _is_of_python({"__name__": "os"})  # of no file, and not what is imported by that name
    assert _is_of_python(vars(os)) and _is_of_python(vars(sys))

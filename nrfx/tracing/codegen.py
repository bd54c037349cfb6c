"""The code of a traced graph."""

import re
from dataclasses import replace
from typing import Any

from torch.fx.graph import CodeGen, PythonCode

_BEGIN = re.compile(r"\s*\w+.* = nrfx_tracing_regions_begin\('(\w+)'(?:, )?(.*?)\)(?:;  .*)?$")
_END = re.compile(r"\s*\w+.* = nrfx_tracing_regions_end\(")


class TracedCode(CodeGen):
    """As torch.fx writes it, with a `with` block for each region, which an exception leaves too."""

    def _gen_python_code(self, *args: Any, **kwargs: Any) -> PythonCode:
        code = super()._gen_python_code(*args, **kwargs)
        return replace(code, src="\n".join(_in_blocks(code.src.splitlines())))


def _in_blocks(lines: list[str]) -> list[str]:
    """The lines, with the calls that begin and end a region as a `with` statement and the lines between them indented.

    There are as many lines as before, for fx knows the node of each.
    """
    written: list[str] = []
    depth = 0
    for line in lines:
        begins, indent = _BEGIN.match(line), "    " * depth
        if begins:
            written.append(f"{indent}    with torch.{begins[1]}({begins[2]}):")
            depth += 1
        elif _END.match(line):
            written.append(f"{indent}    pass" if written[-1].lstrip().startswith("with torch.") else "")
            depth -= 1
        else:
            written.append(f"{indent}{line}" if line else line)
    return written

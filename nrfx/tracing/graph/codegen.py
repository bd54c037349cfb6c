"""The code of a traced graph, and that of one whose model takes more than tensors, one by one."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.fx.graph import CodeGen, PythonCode

from nrfx.tracing.graph.arguments import LEFT_OUT, CallForm, Parameter
from nrfx.tracing.graph.registered import own_names

_BEGIN = re.compile(r"\s*\w+.* = nrfx_tracing_graph_regions_begin\('(\w+)'(?:, )?(.*?)\)(?:;  .*)?$")
_END = re.compile(r"\s*\w+.* = nrfx_tracing_graph_regions_end\(")


class TracedCode(CodeGen):
    """As torch.fx writes it, with a `with` block for each region, which an exception leaves too."""

    def _gen_python_code(self, *args: Any, **kwargs: Any) -> PythonCode:
        code = super()._gen_python_code(*args, **kwargs)
        lines = code.src.splitlines()
        if not own_names().isdisjoint(_ATTRIBUTE.findall(code.src)):
            lines = [_TOKEN.sub(_found, line) for line in lines]
        return replace(code, src="\n".join(_in_blocks(lines) if _REGIONS in code.src else lines))


_REGIONS = "nrfx_tracing_graph_regions_"
_ATTRIBUTE = re.compile(r"self\.(\w+)")
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![\w.])self\.(?P<name>\w+)""")
"""A text, which may quote code of the model, or an attribute of the module."""


def _found(token: re.Match[str]) -> str:
    """The token; what an attribute of graph modules hides is looked up."""
    return f'self.registered("{token["name"]}")' if token["name"] in own_names() else token[0]


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


_TENSORS, _LEFT_OUT = "nrfx_tensors", "nrfx_left_out"


class CallCode(TracedCode):
    """Code with the signature of the model's forward, which takes the graph's inputs out of its arguments."""

    def __init__(self, form: CallForm) -> None:
        super().__init__()
        self.form = form

    def gen_fn_def(self, free_vars: list[str], *args: Any, **kwargs: Any) -> str:
        """The line `def forward(...)`, and one that binds the graph's inputs."""
        head = super().gen_fn_def(_signature(self.form), *args, **kwargs)
        inputs = ", ".join(name.split(":")[0].strip() for name in free_vars if name != "self")
        values = ", ".join(parameter.name for parameter in self.form.parameters)
        return f"{head}\n    {inputs}, = {_TENSORS}({values})"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """What the generated code names beside the targets of nodes."""
        return [(_TENSORS, self.form.tensors), (_LEFT_OUT, LEFT_OUT)]

    def process_inputs(self, *args: Any) -> Any:
        """The graph's inputs from positional arguments, for torch.fx.Interpreter."""
        return self.form.in_order(args)


def _signature(form: CallForm) -> list[str]:
    """The parameters of the forward as source code."""
    code: list[str] = []
    kinds = [parameter.kind for parameter in form.parameters]
    for index, parameter in enumerate(form.parameters):
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not _STARS & {*kinds[:index]}:
            code.append("*")
        code.append(_written(parameter))
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and kinds[index + 1 : index + 2] != [parameter.kind]:
            code.append("/")
    return code


_STARS = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY}
_PREFIX: Mapping[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _written(parameter: Parameter) -> str:
    if not parameter.default:
        return f"{_PREFIX.get(parameter.kind, '')}{parameter.name}"
    (default,) = parameter.default
    return f"{parameter.name}={_LEFT_OUT if default is LEFT_OUT else repr(default)}"

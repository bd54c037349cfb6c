"""The shape of the package: imports run one way, in the order of the data, and the doors are documented."""

import ast
import inspect
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx
import pytest
import torch
from torch import nn

import nrfx
from nrfx.rules import OPS

ROOT = Path(nrfx.__file__).parent
ORDER: Mapping[str, str] = {
    "errors": "",
    "choices": "",
    "locks": "",
    "files": "",
    "garbage": "",
    "printed": "",
    "ids": "",
    "labels": "",
    "nests": "",
    "records": "",
    "nn": "generations attention cache library operands native fused implementations leaf cross layers scale "
    "triton_kernels",
    "rules": "effect registry check ties sizes pointwise positions movement parts joining pooling contraction "
    "recurrent reduction norm product einsum by_value made boxes views",
    "tracing.graph": "scripted lazy_code walk switch registered clone copies stated exchange regions equal_calls "
    "complaint shapes work arguments codegen twins guards module examples modes staleness hosted original",
    "tracing.calls": "leaves known_forward boxes",
    "tracing.values": "causes bytecode proxies writers assignments plain closed handed_on decisions questions",
    "tracing.recording": "unsupported draws compiled einops_backend variables signatures modeless kept open_regions "
    "replay recorder both_modes",
    "tracing.partial": "culprits around box_runs free_share run parts partition",
    "tracing": "capture",
    "analysis": "names varying affine taught births channels inventory reinterpret repeats in_place obstacles effects "
    "interpret relabel residual spaces positions constants domain conditions given_up liveness cost between batches "
    "probes activity zero_filters limits ranking criterion criteria gammas not_understood reached deaf stops holders "
    "tie_graph why rows utilization structure meter asked_meter check_rule",
    "plan": "origins budget budget_request options constraints reallocate absorb placed grown_births expected places "
    "mismatches resize rescale blocks heads survivors decision plan advice advised",
    "rewrite": "initialise literals module_widths absorb_constants cross_layers new_tensors assemble build notes "
    "moment replacement result compare node_by_node drawn other_sizes verify rejuvenate heads scales cross_attend "
    "sort_generations",
    "deploy": "plain apply formats compared export latency",
    "report": "layer_tree amounts page told table utilization rejuvenation paragraphs why advice",
    "report.html": "lanes bars graph entries page",
    "optimizers": "kinds packages wrappers",
    "checkpoint": "encoding tensors digests call plan file network entry state optimizer save_load",
    "training": "schedule gamma_weights carried_state optimizer twins followers heads recalibrate restart "
    "baselines events resumed search guards hooks in_place replicas transaction sharded penalty forecast watched "
    "arguments wrappers processes together witness change rejuvenator",
    "integrations": "architecture attached lightning transformers",
    "models": "layers vgg resnet densenet mobilenet networks weights names",
    "experiment": "config data shapes idx fashion datasets recipe recipe_file fit scores record metrics progress plot "
    "sparse ranks loop advise networks intervals",
    "experiment.demo": "setting training workers picture screen verdict show",
    "liveness": "",
    "api": "",
    "cli": "parser output start endings train advise doctor commands",
}
"""The rooms in the order of the data, and the files of each in theirs: a file imports only what stands before it."""

PLACES = [
    f"nrfx.{room}" + (f".{file}" if file else "") for room, files in ORDER.items() for file in ("", *files.split())
]
FILES = {
    ".".join(("nrfx", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
DOORS = ("nrfx", "nrfx.__main__")
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The files of nrfx that a file imports anywhere: at its top, in a function, or under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("nrfx"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nrfx":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else node.module


def rank(name: str) -> int:
    """The place of a file in the order. A room as a whole (its __init__) comes after its files."""
    return max(index for index, place in enumerate(PLACES) if place == name or place.startswith(f"{name}."))


def test_every_file_has_a_place_in_the_order() -> None:
    assert set(PLACES) == set(FILES) - set(DOORS)


@pytest.mark.parametrize("name", [name for name in FILES if name not in DOORS])
def test_a_file_imports_only_what_comes_before_it(name: str) -> None:
    own = rank(name)
    later = [other for other in imported(FILES[name]) if other != name and rank(other) > own]
    assert not later, f"{name} imports {later}, which come after it"


def test_imports_lead_in_no_circle() -> None:
    """Without the two doors, which load everything when a public name is asked for."""
    arrows = networkx.DiGraph((name, other) for name in FILES if name not in DOORS for other in imported(FILES[name]))
    arrows.remove_edges_from(list(networkx.selfloop_edges(arrows)))
    assert networkx.is_directed_acyclic_graph(arrows), networkx.find_cycle(arrows)


def test_an_import_in_a_function_or_for_type_checking_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from nrfx.plan.budget import Budget\n"
        "def late():\n    from nrfx.plan import blocks\n    import nrfx.labels\n"
    )
    assert sorted(imported(file)) == ["nrfx.labels", "nrfx.plan.blocks", "nrfx.plan.budget"]


def test_the_surface_is_sorted_and_every_name_on_it_is_documented() -> None:
    assert list(nrfx.__all__) == sorted(nrfx.__all__)
    for name in nrfx.__all__:
        assert inspect.getdoc(getattr(nrfx, name)), name


def test_every_module_says_what_it_is_about() -> None:
    for module in MODULES:
        assert ast.get_docstring(ast.parse((ROOT / module).read_text())), module


def test_nothing_in_the_project_names_a_package_index_or_a_local_path() -> None:
    files = [
        path
        for path in ROOT.parent.rglob("*")
        if path.suffix in (".py", ".md", ".toml", ".csv") and ".venv" not in path.parts
    ]
    for path in files:
        text = path.read_text()
        for word in ("pypi" + ".org", "--index" + "-url", "/wo" + "rk/"):
            assert word not in text, f"{path} contains {word}"


LISTED = "no other file than those of nrfx/rules/ says something of an op in a list: it belongs into its @rule(...)"


def ops_in_lists(path: Path) -> Iterator[str]:
    """The ops with a rule that stand in a tuple, list, set or dict of a file, such as F.relu or nn.Conv2d."""
    spaces = {"torch": torch, "nn": nn, "F": nn.functional, "operator": operator}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            continue
        for item in node.keys if isinstance(node, ast.Dict) else node.elts:
            if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id in spaces:
                op = getattr(spaces[item.value.id], item.attr, None)
                if callable(op) and op in OPS:
                    yield f"{item.value.id}.{item.attr}"


@pytest.mark.parametrize(
    "name", [name for name in FILES if not name.startswith(("nrfx.rules", "nrfx.models", "nrfx.experiment"))]
)
def test_an_op_is_named_once(name: str) -> None:
    assert list(ops_in_lists(FILES[name])) == [], LISTED


def test_an_op_in_a_list_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("NORMS = (nn.BatchNorm2d, nn.Module)\nKINDS = {F.relu: 1}\nSUM = torch.add, 3\n")
    assert sorted(ops_in_lists(file)) == ["F.relu", "nn.BatchNorm2d", "torch.add"]

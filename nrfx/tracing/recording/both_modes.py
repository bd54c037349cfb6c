"""The graphs of a model, captured in both modes, and the traced module that they make.

The model is traced on shells of itself: it is never run, never switched and never written to.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.rules import op_of
from nrfx.rules.registry import is_of_torch
from nrfx.tracing.calls.boxes import NO_BOXES, Boxes, box_name
from nrfx.tracing.calls.leaves import Leaves
from nrfx.tracing.graph.arguments import Arguments
from nrfx.tracing.graph.clone import is_as_new, same, shell
from nrfx.tracing.graph.codegen import CallCode, TracedCode
from nrfx.tracing.graph.copies import copied
from nrfx.tracing.graph.hosted import HostedModule
from nrfx.tracing.graph.modes import alike, of_eval, unified, with_modes
from nrfx.tracing.graph.module import Facts, TracedModule, as_parameters, constants_at_trace, fill
from nrfx.tracing.graph.regions import erase_empty
from nrfx.tracing.graph.registered import HOST, own_names
from nrfx.tracing.graph.shapes import InputSpec
from nrfx.tracing.graph.switch import switch
from nrfx.tracing.graph.walk import Contents, named_modules
from nrfx.tracing.recording.draws import random_state_kept
from nrfx.tracing.recording.kept import State, put, refused
from nrfx.tracing.recording.modeless import ModeSet, may_share, without_modes
from nrfx.tracing.recording.recorder import Recorder
from nrfx.tracing.recording.replay import Replay, Run, Runs, is_repeatable, may_ask
from nrfx.tracing.values.proxies import AUGMENTED
from nrfx.tracing.values.writers import read_results

MODES = ("train", "eval")
DECIDED = (bool, int, float, str, torch.Size, torch.dtype, torch.device)
"""Values that follow from the shapes of the inputs."""

Make = Callable[[nn.Module, Mapping[str, fx.Graph], Facts, str], TracedModule]


@dataclass(frozen=True)
class Capture:
    """The graph of a model in one mode.

    Attributes:
        constants: the tensors that the forward made out of nothing, by the graph's names.
        unmoved: the submodules that `train` of the model leaves in the other mode.
        asks_mode: whether a forward that was recorded in no mode asks for it: it is the graph of eval mode then.
        shell: the shell of the model that it was recorded on, with what it holds, where this is as a new one would be;
            else None.
        runs: path -> what a submodule did that another recording may repeat.
        twins: node -> the node of another recording that is the same op on the same values.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    unmoved: tuple[str, ...]
    asks_mode: bool = False
    shell: Contents | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)
    twins: Mapping[fx.Node, fx.Node] = field(default_factory=dict)


def trace_whole(model: nn.Module, arguments: Arguments, leaves: Leaves, boxes: Boxes = NO_BOXES) -> TracedModule:
    """The model as one graph, or as one for each mode.

    Raises:
        TraceError: the model cannot be captured faithfully, or the inputs do not fit it.
    """
    captures = captured(model, arguments, leaves, boxes)
    nodes = [node for taken in captures.values() for node in taken.graph.nodes]
    called = tuple(dict.fromkeys(box_name(node) for node in nodes if "opaque" in node.meta))
    asked = leaves.in_model(model)
    needs_host = any(node.target == HOST for node in nodes)
    make = HostedModule if needs_host else TracedModule
    form = arguments.form
    if form is not None and form.has_mappings:
        turned = captured(model, arguments.turned, leaves, boxes)
        ordered = any(not alike(captures[mode].graph, turned[mode].graph) for mode in MODES)
        form = replace(form, ordered=ordered)

    def complete(facts: Facts) -> Facts:
        return replace(facts, leaves=asked, boxes=called, form=form)

    return combined(model, captures, complete, arguments.inputs, make)


def combined(
    model: nn.Module,
    captures: Mapping[str, Capture],
    complete: Callable[[Facts], Facts],
    inputs: tuple[InputSpec, ...],
    make: Make = TracedModule,
) -> TracedModule:
    """The traced module of two captures: one graph where they are alike, else two."""
    used = captures["eval"].shell
    root = shell_of(model) if used is None else used.root
    constants = {mode: dict(captures[mode].constants) for mode in MODES}
    for mode in MODES:
        hidden = {name: f"_tensor_{name}" for name in constants[mode] if name in own_names()}
        _rename(captures[mode].graph, constants[mode], hidden)
    one, added = None, bool(constants["eval"])
    if captures["train"] is captures["eval"]:
        one = captures["eval"].graph
        added = with_modes(one, root) or added
    elif _same_constants(constants["train"], constants["eval"]):
        one = unified(captures["train"].graph, captures["eval"].graph, root)
    else:
        of_train = {name: f"train{name}" for name in constants["train"]}
        _rename(captures["train"].graph, constants["train"], of_train)
    for name, value in (constants["train"] | constants["eval"]).items():
        root.__dict__[name] = value
    graphs = {mode: one or captures[mode].graph for mode in MODES}
    as_used = captures["train"] is captures["eval"] and not added
    contents = used if used is not None and as_used else Contents.of(root)
    facts = complete(Facts(inputs, constants_at_trace(contents), {mode: captures[mode].unmoved for mode in MODES}))
    anew = as_parameters(contents, facts.inputs) != facts.inputs
    fill(contents, graphs, facts.inputs, anew, {} if one is not None else captures["train"].twins)
    for graph in {id(graph): graph for graph in graphs.values()}.values():
        _rebind_numbers(graph)
        read_results(graph, contents.by_path)
        _erase_decided(graph)
        erase_empty(graph)
        graph.set_codegen(TracedCode() if facts.form is None else CallCode(facts.form))
    return make(root, graphs, facts, type(model).__name__)


def captured(model: nn.Module, arguments: Arguments, leaves: Leaves, boxes: Boxes) -> dict[str, Capture]:
    """The graph of the model in each mode: one recording where the forward does not ask for the mode."""
    evaluated = None
    if boxes.calls is None and not leaves.are_wanted and may_share(model):
        with suppress(TraceError, ModeSet):  # what is wrong without a mode as well, the recordings below say
            evaluated = capture(model, arguments, "", leaves)
    repeated = None
    if evaluated is not None:
        called = {str(node.target) for node in evaluated.graph.nodes if node.op == "call_module"}
        modules = dict(named_modules(model, once=False))
        if all(_has_one_shape(modules[path]) for path in called):
            if not evaluated.asks_mode:
                return dict.fromkeys(MODES, evaluated)
            repeated = evaluated
    train = capture(model, arguments, "train", leaves, boxes=boxes, repeated=repeated)
    return {"train": train, "eval": evaluated or capture(model, arguments, "eval", leaves, boxes=boxes)}


def _has_one_shape(module: nn.Module) -> bool:
    """Whether its calls give values of one shape in both modes: a module of the user's own that is one call may not."""
    op = op_of(module)
    return (op is not None and op.shipped) or is_of_torch(module.forward)


def capture(
    model: nn.Module,
    arguments: Arguments,
    mode: str,
    leaves: Leaves,
    check: bool = False,
    boxes: Boxes = NO_BOXES,
    repeated: Capture | None = None,
) -> Capture:
    """The graph of the model in one mode, on arguments of the given shapes.

    Args:
        mode: "train", "eval", or "" for both at once, and for eval if the forward asks.
        boxes: what to call as a whole, though it has no rule.
        repeated: the same in eval mode: what submodules do in both modes is taken from there.
        check: whether to infer the shape of every node, which raises TraceError where one cannot be run.
    """
    again = partial(_recorded, model, arguments, mode, leaves, boxes)
    recorder = again(repeated=repeated)
    asks_mode = recorder.asks_mode
    if recorder.kept or recorder.written or recorder.replaced:
        asks_mode = _check_calls(model, recorder, again) or asks_mode
    for asked, where in recorder.decisions.questions.items():
        recorder = _other_answer(recorder, asked, where, again)
        asks_mode = asks_mode or recorder.asks_mode
    graph = recorder.graph
    if asks_mode:
        of_eval(graph)
    if check:
        recorder.check()
    unused = not mode and is_as_new(recorder.root, model)
    runs = recorder.runs.known if asks_mode and unused and recorder.runs is not None and is_repeatable(graph) else {}
    contents = recorder.contents if unused else None
    twins = {} if recorder.replay is None else recorder.replay.twins.of
    return Capture(graph, _constants(recorder), recorder.unmoved, asks_mode, contents, runs, twins)


def _constants(recorder: Recorder) -> dict[str, Tensor]:
    """The tensors that the forward made out of nothing, by the graph's names."""
    targets = {str(node.target) for node in recorder.graph.nodes if node.op == "get_attr"}
    made = {name: vars(recorder.root).get(name) for name in sorted(targets)}
    return {name: value for name, value in made.items() if isinstance(value, Tensor)}


def _recorded(
    model: nn.Module,
    arguments: Arguments,
    mode: str,
    leaves: Leaves,
    boxes: Boxes,
    otherwise: str = "",
    state: State | None = None,
    repeated: Capture | None = None,
) -> Recorder:
    """The recorder of the model in one mode, with its graph.

    state: what an earlier call has left in attributes.
    repeated: as of `capture`.

    Where the forward asks for a plain number (int, float, len, max, min), it is recorded again with functions that keep
    the number symbolic in the globals of the code that asked; each round adds a file, so that the loop ends. Where it
    draws random numbers, it is recorded again to find the module that does.
    """
    scopes: tuple[dict[str, Any], ...] = ()
    watched = False
    leaves = leaves.and_paths(boxes.paths)
    while True:
        root = shell_of(model)
        put(root, state or {})
        marks = boxes.marks(mode == "train")
        recorder = Recorder(arguments, mode == "train", leaves, scopes, otherwise, marks, watched)
        if repeated is not None:  # then `train` does nothing else
            modules = dict(named_modules(root))
            switch(modules.values(), mode == "train")
            recorder.replay = Replay(repeated.graph, repeated.runs, modules) if repeated.runs else None
        elif mode:
            recorder.unmoved = unmoved(root.train(mode == "train"), mode)
        wanting = recorder.decisions.wanting
        in_mode = nullcontext() if mode else without_modes(root)
        with (
            in_mode as answer,
            boxes.recorded(),
            random_state_kept(),
            torch.enable_grad(),
        ):  # gradients are on, as in training
            if answer is not None and may_ask({type(module) for _, module in named_modules(model)}):
                recorder.runs = Runs(answer, (module for _, module in named_modules(root)))
            try:
                recorder.trace(root)
            except TraceError:
                if recorder.has_drawn and not watched:
                    watched = True
                    continue
                if not wanting:
                    raise
        if not wanting:
            if answer is not None:
                recorder.asks_mode = answer.asked
            if recorder.asks_mode:
                of_eval(recorder.graph)
            if marks is not None:
                marks.finish(root)
            return recorder
        scopes += tuple(wanting.values())


def _check_calls(model: nn.Module, first: Recorder, again: Callable[..., Recorder]) -> bool:
    """Whether later calls ask for the mode. Raises TraceError where they differ by what the calls before left in
    attributes."""
    asked: list[bool] = []

    def record(state: State) -> Recorder:
        recorder = again(state=state)
        asked.append(recorder.asks_mode)
        return recorder

    try:
        for (path, name), now in first.written.items():  # into a copy; the graph reads the model's own
            if not _holds_the_same(vars(model.get_submodule(path))[name], now):
                raise _Changing({(path, name): now})
        if first.replaced and not _same_graph(first, record(state=first.replaced)):
            raise _Changing(first.replaced)
        second = record(state=first.kept) if first.kept else first
        if second.kept and not _same_graph(second, record(state={**first.kept, **second.kept})):
            raise _Changing(second.kept)
    except _Changing as changing:
        path, name = next(iter(changing.state))
        raise refused(f"{path}.{name}" if path else name) from None
    except (TraceError, ModeSet):
        pass  # what cannot be recorded is no other graph
    return any(asked)


def _holds_the_same(was: Tensor, now: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN where the other has NaN; on meta there are none."""
    if was.is_meta or torch.equal(was, now):
        return True
    return was.is_floating_point() and torch.allclose(was, now, rtol=0.0, atol=0.0, equal_nan=True)


class _Changing(Exception):
    """What is left in attributes changes the graph of the next call."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state


def _same_graph(one: Recorder, other: Recorder) -> bool:
    return alike(one.graph, other.graph) and _same_constants(_constants(one), _constants(other))


def _other_answer(recorder: Recorder, asked: str, where: str, record: Callable[[str], Recorder]) -> Recorder:
    """The recorder whose graph stands for both answers to a question of the forward.

    Calls of `contiguous` may be the difference: one graph has them where they do nothing, too.
    """
    message = (
        f"{where}, the forward asks {asked}, and goes another way if the answer is another one. A graph holds one "
        "way, and the answer may differ from run to run: write the forward without the question, or decide it when the "
        "model is built."
    )
    try:
        other = record(asked)
    except TraceError as error:
        raise TraceError(f"{message} The other way cannot be traced: {error}") from error
    if not alike(_without_contiguous(recorder.graph), _without_contiguous(other.graph)):
        raise TraceError(message)
    return max(recorder, other, key=lambda one: len(one.graph.nodes))


def _without_contiguous(graph: fx.Graph) -> fx.Graph:
    twin = copied(graph)
    for node in list(twin.nodes):
        if node.target == "contiguous":
            node.replace_all_uses_with(node.args[0])
            twin.erase_node(node)
    return twin


def unmoved(root: nn.Module, mode: str) -> tuple[str, ...]:
    """The paths of the submodules that are not in this mode although the model was switched to it."""
    return tuple(path for path, module in named_modules(root) if module.training != (mode == "train"))


def shell_of(model: nn.Module) -> Any:
    """A copy of the modules of `model` around the same tensors (see clone.py)."""
    try:
        return shell(model, same)
    except Exception as error:  # whatever a module's own __deepcopy__ or __setstate__ raises
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}). "
            "Tracing works on a deepcopy of the modules, without their tensors: remove what refuses it."
        ) from error


def _same_constants(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and (a.is_meta or torch.equal(a, b))
        for a, b in ((one[name], two[name]) for name in one)
    )


def _rename(graph: fx.Graph, constants: dict[str, Tensor], names: Mapping[str, str]) -> None:
    """Gives constants of a graph other names, by their old ones."""
    for old, new in names.items():
        constants[new] = constants.pop(old)
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in names:
            node.target = names[node.target]


def _rebind_numbers(graph: fx.Graph) -> None:
    """Makes `n += 1` on a number `n + 1`: it is recorded as a change in place, which only tensors have."""
    for node in graph.nodes:
        if node.target in AUGMENTED and not isinstance(_val(node.args[0]), Tensor):
            node.target = AUGMENTED[node.target]


def _val(argument: Any) -> Any:
    return argument.meta["val"] if isinstance(argument, fx.Node) else argument


def _erase_decided(graph: fx.Graph) -> None:
    """Removes sizes and flags that no node uses, not even a guard."""
    for node in reversed(graph.nodes):
        pure = node.op in ("call_function", "call_method")
        if pure and not node.users and isinstance(node.meta["val"], DECIDED):
            graph.erase_node(node)

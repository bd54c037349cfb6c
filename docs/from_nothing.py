"""The core of nrfx from nothing: torch, torch.fx and no line of nrfx. `from_nothing.md` tells it step by step.

    python docs/from_nothing.py

It knows convolutions, linear layers, batch norms, relu, pooling, addition, flatten and concatenation, each layer called
once, on activations [N, C, H, W] or [N, C]. Anything else is refused.
"""

import copy
import operator
from collections.abc import Callable
from math import prod, sqrt

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp


class SmallResNet(nn.Module):
    """A residual block, one more convolution, and a flatten of 2 x 2 positions in front of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3, self.bn3 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv4, self.bn4 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        x = self.pool(self.relu(x + y))
        x = self.pool(self.relu(self.bn4(self.conv4(x))))
        return self.fc(torch.flatten(x, 1))


@torch.no_grad()
def trained(seed: int = 0) -> tuple[SmallResNet, Tensor]:
    """The network in float64 as training with a penalty on gammas leaves it, some of them near 0; and 4 images."""
    torch.manual_seed(seed)
    model, x = SmallResNet().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    betas = {"bn1": [-0.2] * 3, "bn2": [-0.2] * 7 + [0.2] * 2, "bn3": [-0.2] * 2, "bn4": [0.2] * 5}
    for path, beta in betas.items():
        bn = model.get_submodule(path)
        bn.weight.uniform_(0.5, 1.5)
        bn.bias.normal_(0, 0.5)
        bn.weight[: len(beta)] *= 1e-3
        bn.bias[: len(beta)] = torch.tensor(beta)
    for _ in range(50):
        model(torch.randn(32, 3, 8, 8, dtype=torch.float64))  # the norms take their running statistics
    return model, x


def trace(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """A copy of the model as a graph in eval mode. Every node knows the shape of its result on the example x."""
    traced = fx.symbolic_trace(copy.deepcopy(model).eval())
    ShapeProp(traced).propagate(x)
    return traced


def layout(labels: Tensor) -> Tensor:
    """[C]: the label that each index of dim 1 of an activation [N, C, ...] carries, the same at all its positions."""
    rows = labels.transpose(0, 1).flatten(1)
    if bool((rows != rows[:, :1]).any()):
        raise NotImplementedError("An index of dim 1 carries several channels.")
    return rows[:, 0]


def spread(layout: Tensor, shape: torch.Size) -> Tensor:
    """The layout along dim 1, repeated along the other dims of `shape`."""
    return layout.view(1, -1, *[1] * (len(shape) - 2)).expand(shape[0], -1, *shape[2:])


class Walk:
    """A graph, interpreted on label tensors. Each layer brings as many labels into being as its weight has rows, or
    those in `births`: then it is the walk over a network of other widths."""

    def __init__(self, traced: fx.GraphModule, births: dict[str, Tensor] | None = None) -> None:
        self.labels: dict[str, Tensor] = {}  # node -> the labels of its result
        self.births: dict[str, Tensor] = {}  # layer, or input -> the labels that it brings into being
        self.axes: dict[str, tuple[Tensor, ...]] = {}  # parameter or buffer -> the layout of each dim before the kernel
        self.positions: dict[str, int] = {}  # layer -> positions of its result for one example
        self.ties: list[tuple[Tensor, Tensor]] = []  # labels that are one channel, element by element
        self.pins: list[Tensor] = []  # labels that must stay
        self.given = births
        for node in traced.graph.nodes:
            self.name, self.shape = str(node.target), node.meta["tensor_meta"].shape
            module = traced.get_submodule(self.name) if node.op == "call_module" else None
            kind = {"call_module": type(module), "call_function": node.target}.get(node.op, node.op)
            if kind not in RULES or f"{self.name}.weight" in self.axes:
                raise NotImplementedError(f"{node.name}: no rule for {kind}, or a layer that is called twice.")
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: self.labels[source.name])
            self.labels[node.name] = RULES[kind](self, module or node.target, *args, **kwargs)

    def birth(self, width: int) -> Tensor:
        """[width]: labels of channels that the node brings into being."""
        first = sum(map(len, self.births.values()))
        self.births[self.name] = torch.arange(first, first + width) if self.given is None else self.given[self.name]
        return self.births[self.name]

    def follow(self, module: nn.Module, **axes: tuple[Tensor, ...]) -> None:
        """Notes which layouts the dims of the module's tensors follow."""
        held = {name: axis for name, axis in axes.items() if getattr(module, name) is not None}
        self.axes.update({f"{self.name}.{name}": axis for name, axis in held.items()})


def source(walk: Walk, _: object) -> Tensor:
    """The input brings channels into being, and they must stay."""
    walk.pins.append(spread(walk.birth(walk.shape[1]), walk.shape))
    return walk.pins[-1]


def contraction(walk: Walk, module: nn.Module, labels: Tensor) -> Tensor:
    """A convolution or linear layer reads a layout along dim 1 of its weight, and gives birth to one along dim 0."""
    if getattr(module, "groups", 1) > 1:
        raise NotImplementedError(f"{walk.name} has groups.")
    rows, columns = walk.birth(module.weight.shape[0]), layout(labels)
    walk.follow(module, weight=(rows, columns), bias=(rows,))
    walk.positions[walk.name] = prod(walk.shape[2:])
    return spread(rows, walk.shape)


def norm(walk: Walk, module: nn.Module, labels: Tensor) -> Tensor:
    """A batch norm has four numbers for each channel, and lets it pass."""
    axis = (layout(labels),)
    walk.follow(module, weight=axis, bias=axis, running_mean=axis, running_var=axis)
    return labels


def pool(walk: Walk, _: object, labels: Tensor) -> Tensor:
    """Pooling lets channels pass and changes their positions."""
    return spread(layout(labels), walk.shape)


def elementwise(walk: Walk, _: object, *labels: Tensor) -> Tensor:
    """What meets in an element is one channel."""
    first, *others = torch.broadcast_tensors(*labels)
    walk.ties += [(first, other) for other in others]
    return first


def movement(walk: Walk, op: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    """What only moves elements moves labels: it needs no rule but itself."""
    return op(*args, **kwargs)


def sink(walk: Walk, _: object, labels: Tensor) -> Tensor:
    """The channels of the output must stay."""
    walk.pins.append(labels)
    return labels


RULES: dict[object, Callable[..., Tensor]] = {
    "placeholder": source,
    **dict.fromkeys((nn.Conv2d, nn.Linear), contraction),
    nn.BatchNorm2d: norm,
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d), pool),
    **dict.fromkeys((nn.ReLU, torch.relu, torch.add, operator.add, operator.iadd), elementwise),
    **dict.fromkeys((nn.Flatten, torch.flatten, torch.cat), movement),
    "output": sink,
}


def components(count: int, ties: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[count]: the connected component of each label, in the graph whose edges are the ties; numbered from 0."""
    component = torch.arange(count)
    for left, right in ties:
        for one, other in torch.stack([left.flatten(), right.flatten()], 1).unique(dim=0).tolist():
            component[component == component[one]] = int(component[other])
    return component.unique(return_inverse=True)[1]


class Channels:
    """Tied labels are one channel. Channels with equally many labels at each birth are one space."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.channel_of = components(sum(map(len, walk.births.values())), walk.ties)  # [labels]
        count = int(self.channel_of.max()) + 1
        labels_at = torch.stack([self.channel_of[born].bincount(minlength=count) for born in walk.births.values()])
        self.space_of = (-labels_at).unique(dim=1, return_inverse=True)[1]  # [channels], spaces in order of birth
        self.width = self.space_of.bincount()  # [spaces]
        pinned = self.spaces(torch.cat([labels.flatten() for labels in walk.pins]))
        self.free = torch.ones_like(self.width, dtype=torch.bool).index_fill(0, pinned, False)  # [spaces]

    def spaces(self, layout: Tensor) -> Tensor:
        """The space of each label."""
        return self.space_of[self.channel_of[layout]]


class Constants(fx.Interpreter):
    """The network run on NaN, which says "varies", with its dead gammas at 0. What is not NaN is a constant."""

    def __init__(self, traced: fx.GraphModule, x: Tensor) -> None:
        super().__init__(traced)
        norms = {path: m for path, m in traced.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine}
        gammas = {path: norm.weight.abs() for path, norm in norms.items()}
        self.dead = {path: gamma < 0.01 * gamma.max() for path, gamma in gammas.items()}  # norm -> [C] bool
        self.read: dict[str, Tensor] = {}  # layer -> [columns]: the constant that each column reads, or NaN
        self.run(torch.full_like(x, torch.nan))

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> Tensor:
        module, out = self.fetch_attr(target), super().call_module(target, args, kwargs)
        if target in self.dead:
            return torch.where(spread(self.dead[target], out.shape), spread(module.bias, out.shape), out)
        if isinstance(module, nn.Conv2d | nn.Linear):
            rows = args[0].transpose(0, 1).flatten(1)  # a constant is the same in all images, at all positions
            self.read[target] = torch.where((rows == rows[:, :1]).all(1), rows[:, 0], torch.nan)
            return torch.full_like(out, torch.nan)
        return out


def liveness(traced: fx.GraphModule, found: Channels, constants: Constants) -> Tensor:
    """[channels] bool: who stays. All others give their readers 0, or a constant that the readers' biases can take."""
    live = ~found.free[found.space_of]
    for path, constant in constants.read.items():
        reader = traced.get_submodule(path)
        takes = reader.bias is not None and not any(getattr(reader, "padding", ()))
        needed = constant.isnan() if takes else constant != 0  # NaN is not 0 either
        live[found.channel_of[found.walk.axes[f"{path}.weight"][1][needed]]] = True
    return live


def cost(traced: fx.GraphModule, found: Channels, width: Tensor) -> tuple[int, int]:
    """(params, multiply-adds of one example) if space s had width[s] channels. Nothing is built, nothing is run."""
    params = flops = 0
    for name, parameter in traced.named_parameters():
        axes = found.walk.axes[name]
        now = [found.spaces(axis).bincount(minlength=len(width)) for axis in axes]  # positions of each space
        numbers = prod(int(count // found.width @ width) for count in now) * prod(parameter.shape[len(axes) :])
        params += numbers
        flops += numbers * found.walk.positions[name.rpartition(".")[0]] if len(axes) == 2 else 0
    return params, flops


def reallocate(price: Callable[[Tensor], int], live: Tensor, free: Tensor, budget: int) -> Tensor:
    """[spaces]: the live widths times one alpha, as large as the budget allows; grown channel by channel."""
    if price(live) > budget:
        raise ValueError(f"What is live costs {price(live):,}, and the budget is {budget:,}.")
    width, units = live, torch.eye(len(live), dtype=torch.int64)[free]
    while fitting := [width + unit for unit in units if price(width + unit) <= budget]:
        width = min(fitting, key=lambda wider: float((wider / live)[wider > width]))
    return width


def resize(traced: fx.GraphModule, found: Channels, live: Tensor, width: Tensor) -> Walk:
    """The walk over the network to be. Each birth keeps its live labels, in order, with new ones behind them."""
    more = width - found.space_of[live].bincount(minlength=len(width))
    first = len(live) + more.cumsum(0) - more  # [spaces]: the number of the first new channel
    births, channel_of = {}, found.channel_of
    for path, labels in found.walk.births.items():
        parts = []
        for space in found.spaces(labels).unique_consecutive().tolist():
            old = labels[found.spaces(labels) == space]
            new = torch.arange(first[space], first[space] + more[space])
            new = new.repeat_interleave(len(old) // int(found.width[space]))  # the channel of each new label
            parts += [old[live[found.channel_of[old]]], torch.arange(len(new)) + len(channel_of)]
            channel_of = torch.cat([channel_of, new])
        births[path] = torch.cat(parts)
    planned = Walk(traced, births)
    if not all(torch.equal(channel_of[left], channel_of[right]) for left, right in planned.ties):
        raise NotImplementedError("At these widths, different channels meet in an addition.")
    return planned


NEW = -1  # the origin of a position that no old one stands for


def origins(old: Tensor, new: Tensor) -> Tensor:
    """[len new]: where on the old axis each label stood, or NEW. Labels that repeat keep their order."""
    places: dict[int, list[int]] = {}
    for place, label in enumerate(old.tolist()):
        places.setdefault(label, []).append(place)
    return torch.tensor([places[label].pop(0) if label in places else NEW for label in new.tolist()])


def gather(tensor: Tensor, places: list[Tensor]) -> Tensor:
    """The tensor with its first dims taken from their origins, and 0 where they are new."""
    for dim, place in enumerate(places):
        tensor = tensor.index_select(dim, place.clamp(min=0)).index_fill(dim, (place == NEW).nonzero().flatten(), 0)
    return tensor


def start(tensor: Tensor, places: list[Tensor], level: float) -> Tensor:
    """A gathered tensor, what is new in it set to a start: vectors to `level`, weights of new rows to random numbers
    where they read new columns."""
    if len(places) == 1:
        return tensor.index_fill(0, (places[0] == NEW).nonzero().flatten(), level)
    rows, columns = (place == NEW for place in places)
    block = rows[:, None] & (columns if bool(columns.any()) else ~columns)  # a layer without new columns reads the old
    std = sqrt(2 / (tensor.shape[0] * prod(tensor.shape[2:])))
    return torch.where(block.view(*block.shape, *[1] * (tensor.dim() - 2)), torch.randn_like(tensor) * std, tensor)


def absorb(built: fx.GraphModule, found: Channels, live: Tensor, constants: Constants) -> None:
    """Adds to each bias, in place, what its layer gets from the channels that go."""
    for path, constant in constants.read.items():
        layer, columns = built.get_submodule(path), found.channel_of[found.walk.axes[f"{path}.weight"][1]]
        leaving = torch.where(live[columns], 0.0, constant)
        if bool(leaving.any()):
            layer.bias += torch.einsum("oi...,i->o", layer.weight, leaving)


def build(built: fx.GraphModule, walk: Walk, planned: Walk) -> None:
    """Gives each tensor of the graph, in place, the layouts of `planned` for those of `walk`."""
    for name, axes in walk.axes.items():
        path, _, attribute = name.rpartition(".")
        module = built.get_submodule(path)
        places = [origins(old, new) for old, new in zip(axes, planned.axes[name], strict=True)]
        level = float(isinstance(module, nn.BatchNorm2d) and attribute in ("weight", "running_var"))
        tensor = start(gather(getattr(module, attribute), places), places, level)
        setattr(module, attribute, nn.Parameter(tensor) if attribute in module._parameters else tensor)


def verify(before: fx.GraphModule, built: fx.GraphModule, planned: Walk, x: Tensor) -> float:
    """The largest difference of the outputs, relative to the largest output; the labels must be as planned."""
    tensors, walk, planned_label = built.state_dict(), Walk(built), torch.cat(list(planned.births.values()))
    for name, axes in planned.axes.items():
        for dim, (then, now) in enumerate(zip(axes, walk.axes[name], strict=True)):
            if tensors[name].shape[dim] != len(then) or not torch.equal(planned_label[now], then):
                raise AssertionError(f"{name} dim {dim} does not hold the {len(then)} channels that were planned.")
    expected, got = before(x), built(x)
    difference = float((expected - got).abs().max() / expected.abs().max())
    if not difference < 1e-10:
        raise AssertionError(f"The outputs differ by {difference:.1e} of the largest.")
    return difference


@torch.no_grad()
def rejuvenate(model: nn.Module, x: Tensor, budget: int | None = None) -> fx.GraphModule:
    """The model without its dead channels and, with a budget of params, widened to it."""
    traced = trace(model, x)
    found, constants = Channels(Walk(traced)), Constants(traced, x)
    live = liveness(traced, found, constants)
    kept = found.space_of[live].bincount(minlength=len(found.width))

    def price(width: Tensor) -> int:
        return cost(traced, found, width)[0]

    width = kept if budget is None else reallocate(price, kept, found.free, budget)
    planned = resize(traced, found, live, width)
    for path, dead in constants.dead.items():  # the function to be kept has 0 for the dead gammas that go
        gone = dead & ~live[found.channel_of[found.walk.axes[f"{path}.weight"][0]]]
        traced.get_submodule(path).weight[gone] = 0.0
    built = copy.deepcopy(traced)
    absorb(built, found, live, constants)
    build(built, found.walk, planned)
    verify(traced, built, planned, x)
    return built


def main() -> None:
    model, x = trained()
    budget = sum(parameter.numel() for parameter in model.parameters())
    networks = model, rejuvenate(model, x), rejuvenate(model, x, budget)
    print("channels  before  shrunk  rejuvenated")
    for path in ("conv1", "conv2", "conv3", "conv4", "fc"):
        print("{:<8}{:>8}{:>8}{:>13}".format(path, *(net.get_submodule(path).weight.shape[0] for net in networks)))
    print("{:<8}{:>8,}{:>8,}{:>13,}".format("params", *(sum(p.numel() for p in net.parameters()) for net in networks)))


if __name__ == "__main__":
    main()

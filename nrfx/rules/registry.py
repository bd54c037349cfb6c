"""The one table from op to rule. A key is a module class, a function, or the name of a tensor method."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from nrfx.rules.effect import Call, Effect, unknown

Rule = Callable[[Call], Effect]
RULES: dict[Any, Rule] = {}


def register(rule: Rule, *keys: Any) -> None:
    """Make `rule` the rule of each of `keys`; an op has one rule only."""
    for key in dict.fromkeys(keys):  # some functions of torch have two names
        assert key not in RULES, f"{key} has a rule already"
        RULES[key] = rule


def rule(*keys: Any) -> Callable[[Rule], Rule]:
    """Decorator: this function is the rule of each of `keys`."""

    def add(function: Rule) -> Rule:
        register(function, *keys)
        return function

    return add


def rule_of(node: fx.Node, module: nn.Module | None) -> Rule:
    """The rule of a call node; for an op without one, a rule that pins whatever it touches and says so."""
    if module is not None:
        known = next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)
        title = type(module).__name__
    else:
        kinds = node.target.__mro__ if isinstance(node.target, type) else (node.target,)
        known = next((RULES[kind] for kind in kinds if kind in RULES), None)
        title = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if known is not None:
        return known
    return lambda call: unknown(call, f"nrfx has no rule for {title}")

"""Who reads the memory that an op has changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from nrfx.rules import Family, op_of
from nrfx.tracing.values.writers import has_inplace, works_in_place, writes_by_schema


@dataclass(frozen=True)
class Memory:
    """Which values of a graph may lie in the same memory.

    place: node -> its index in the graph. families: node -> what its op does, for the nodes so far. modules: by path.
    quiet: the functions and methods so far that write into no argument, however they are called.
    """

    place: Mapping[fx.Node, int]
    families: Mapping[fx.Node, Family]
    modules: Mapping[str, nn.Module]
    quiet: set[Any] = field(default_factory=set)

    def later_reader(self, writer: fx.Node) -> str | None:
        """The first node after `writer` that reads the value which it changes, or a view of this value."""
        module = self.modules[str(writer.target)] if writer.op == "call_module" else None
        if module is None and writer.target in self.quiet:
            return None
        if not works_in_place(writer, module):
            if module is None and not has_inplace(writer):
                self.quiet.add(writer.target)
            return None
        now, sources = self.place[writer], writer.all_input_nodes
        written = sources if writes_by_schema(writer) else sources[:1]
        if len(written) == 1 and len(written[0].users) == 1 and not self._views(written[0]):  # nearly always
            return None
        shared, queue = set(), written
        while queue:
            node = queue.pop()
            shared.add(node)
            around = [user for user in node.users if self.place[user] < now and self._shares(user, node)]
            around += node.all_input_nodes[:1] if self._views(node) else []
            queue.extend(other for other in around if other not in shared)
        readers = {user for node in shared for user in node.users} - shared
        later = [user for user in readers if self.place[user] > now]
        return min(later, key=self.place.__getitem__).name if later else None

    def _views(self, node: fx.Node) -> bool:
        """Whether the value of `node` may lie in the memory of its first input."""
        return any(self._shares(node, source) for source in node.all_input_nodes[:1])

    def _shares(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether the value of `node` may lie in the memory of `source`, its first input."""
        op = op_of(node.target) if node.op in ("call_function", "call_method") else None
        if node.all_input_nodes[0] is not source or (op is not None and op.copies):
            return False
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        return self.families[node] in (Family.MOVEMENT, Family.IDENTITY) or works_in_place(node, module)

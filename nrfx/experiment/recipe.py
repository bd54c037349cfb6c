"""The rows of the paper's Table 1 by their names: what each means for the rejuvenation and for the training around it.

    BL          plain training                   BL-CA     the same of a network with cross attention from the start
    NR-CR       no cross connections (Eq. 6)     NR-FS     the architecture that NR finds, trained from scratch
    NR          cross connections (Eq. 5)        NR-BR     NR with neural rescaling
    NR-CA       cross attention (Eqs. 9, 10)     NR-CA-BR  NR-CA with neural rescaling
    NR-IP       NR without reallocation          NR+DSD    NR-CA-BR and dense-sparse-dense training

What is not in a row: the network, the images, the budget and the schedule. These are in a recipe file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from nrfx.choices import Reinitialize, Scheme
from nrfx.errors import UsageError

DSD = 0.3
"""The part of each layer's weights that the sparse phase leaves out; the DSD paper's on ResNet-50."""


@dataclass(frozen=True)
class Recipe:
    """A row of Table 1.

    Attributes:
        name: as the paper writes it.
        meaning: in words.
        rejuvenates: False for the baselines: there is no penalty and no event.
        scheme, rescale, reallocate, reinitialize: see nrfx.rejuvenate; without meaning for a baseline.
        attends: the layers' channels are split in two halves with cross attention between them before training starts.
        dsd: the part of the weights that a sparse phase leaves out after the event; 0 for no such phase.

    >>> row = recipe("NR-CR")
    >>> row.scheme, row.rescale, row.rejuvenates
    ('removed', False, True)
    """

    name: str
    meaning: str
    rejuvenates: bool = True
    scheme: Scheme = "dense"
    rescale: bool = False
    reallocate: bool = True
    reinitialize: Reinitialize = "rejuvenated"
    attends: bool = False
    dsd: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """The options of nrfx.rejuvenate (and so of nrfx.Rejuvenator) that the row means; none for a baseline."""
        if not self.rejuvenates:
            return {}
        return {name: getattr(self, name) for name in ("scheme", "rescale", "reallocate", "reinitialize")}


_ROWS = (
    Recipe("BL", "baseline: plain training", rejuvenates=False),
    Recipe("BL-CA", "baseline with cross attention from the start", rejuvenates=False, attends=True),
    Recipe("NR-CR", "NR with cross connections removed", scheme="removed"),
    Recipe("NR-FS", "the architecture found by NR, trained from scratch", reinitialize="all"),
    Recipe("NR", "NR with cross connections"),
    Recipe("NR-BR", "NR with neural rescaling", rescale=True),
    Recipe("NR-CA", "NR with cross attention", scheme="attention"),
    Recipe("NR-CA-BR", "NR with cross attention and neural rescaling", scheme="attention", rescale=True),
    Recipe("NR-IP", "NR without reallocation", reallocate=False),
    Recipe("NR+DSD", "NR-CA-BR and dense-sparse-dense training", scheme="attention", rescale=True, dsd=DSD),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({row.name: row for row in _ROWS})
"""By name, in the order of Table 1."""


def recipe(name: str) -> Recipe:
    """The row of the paper's Table 1 with that name.

    Args:
        name: as the paper writes it, such as "NR-CA-BR".

    Raises:
        UsageError: there is no such row.

    Source: Neural Rejuvenation, Table 1 and its caption. NR-CR, NR-FS, NR-CA and NR-IP are NR with one change, so that
    they do not rescale.

    >>> recipe("NR-CA-BR").options
    {'scheme': 'attention', 'rescale': True, 'reallocate': True, 'reinitialize': 'rejuvenated'}
    >>> recipe("BL").rejuvenates
    False
    """
    if not isinstance(name, str) or name not in RECIPES:
        close = get_close_matches(str(name).upper(), RECIPES, n=1)
        hint = f"; close to it: {close[0]}" if close else ""
        raise UsageError(f"There is no row {name!r} in the paper's Table 1{hint}. Its rows: {', '.join(RECIPES)}.")
    return RECIPES[name]

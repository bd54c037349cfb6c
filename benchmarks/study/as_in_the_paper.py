"""The paper's own search and new channels, with which the older studies were made: nrfx's defaults have moved on."""

from collections.abc import Mapping
from typing import Any

SEARCH: Mapping[str, Any] = {
    "penalty": "sign",
    "weighted": "alike",
    "spare": "none",
    "gamma_new": None,
    "rescale_limit": None,
}
"""Of a Rejuvenator and of a RunConfig."""

RUN: Mapping[str, Any] = {**SEARCH, "warmup": 0}
"""Of a RunConfig."""

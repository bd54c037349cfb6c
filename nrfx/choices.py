"""Options whose values are names: the types of the library, and the choices of the command line. Needs no torch."""

from typing import Literal

Measure = Literal["params", "flops"]
"""A measure of cost."""

Residual = Literal["live", "fixed", "coupled"]
"""What may die on residual streams, see `nrfx.rejuvenate`."""

Scheme = Literal["attention", "dense", "removed"]
"""How old and new channels meet, see `nrfx.rejuvenate`."""

Reinitialize = Literal["rejuvenated", "all"]
"""Which parameters start anew, see `nrfx.rejuvenate`."""

CrossWeights = Literal["zero", "drawn"]
"""How the weights start through which new channels read old ones, see `nrfx.rejuvenate`."""

PenaltyName = Literal["sign", "proximal"]
"""How lambda pulls gammas to 0, see `nrfx.Rejuvenator`."""

Weighted = Literal["budget", "params", "flops", "alike"]
"""By what a gamma is pulled harder or less, see `nrfx.Rejuvenator`."""

Spare = Literal["large", "none"]
"""Which gammas are pulled less, see `nrfx.Rejuvenator`."""

RaiseLambda = Literal["slow", "late"]
"""When a measurement raises lambda, see `nrfx.Rejuvenator`."""

DatasetName = Literal["digits", "shapes", "fashion", "cifar10", "cifar100", "folder"]
"""A dataset, see `nrfx.experiment.datasets`."""

Suffix = Literal[".onnx", ".pt2"]
"""The suffix of the file of an exported network."""

Free = Literal["batch", "sizes", "none"]
"""Which sizes the inputs of an exported network may have, see `nrfx.export`."""

LogName = Literal["csv", "tensorboard"]
"""What the numbers of a run can be written to, beside its own log; see `nrfx.experiment.metrics`."""

DemoData = Literal["digits", "fashion"]
"""What the demo trains on, see `nrfx.experiment.demo`."""

"""Models: those of the paper's tables, and any other by the name that the command line takes.

create     a network of the paper, untrained            networks.py, vgg.py, resnet.py, densenet.py, mobilenet.py
resolve    a model by name, with the weights of a file  names.py
"""

from nrfx.models.names import ResolvedModel, resolve
from nrfx.models.networks import NETWORKS, Network, create

__all__ = ["NETWORKS", "Network", "ResolvedModel", "create", "resolve"]

"""The demo: what Neural Rejuvenation wins where the width of a network lies in the wrong places.

setting    the network, the images and how both are trained
training   a training, and what came of it
workers    trainings in several processes
picture    widths, curves and a table for the terminal
screen     the trainings as they go
verdict    the last line
show       `nrfx demo`
"""

from nrfx.experiment.networks import digits_net

__all__ = ["digits_net"]
"""The network of the recipes, where configurations of earlier versions name it."""

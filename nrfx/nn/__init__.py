"""Layers that know the generations of their channels, and the scale that stands in for a norm."""

from nrfx.nn.cross import Cross
from nrfx.nn.implementations import implementation
from nrfx.nn.layers import CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear
from nrfx.nn.scale import ChannelScale

__all__ = ["ChannelScale", "Cross", "CrossConv1d", "CrossConv2d", "CrossConv3d", "CrossLinear", "implementation"]

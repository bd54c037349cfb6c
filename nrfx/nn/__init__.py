"""Layers that know the generations of their channels."""

from nrfx.nn.cross import Cross, CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear

__all__ = ["Cross", "CrossConv1d", "CrossConv2d", "CrossConv3d", "CrossLinear"]

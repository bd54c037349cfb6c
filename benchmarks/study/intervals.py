"""Means with intervals, as the demo has them."""

from nrfx.experiment.intervals import CONFIDENCE, Interval, interval

__all__ = ["CONFIDENCE", "Interval", "interval"]

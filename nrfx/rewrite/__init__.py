"""Passes that change a network: resize by origins, settle constants, rescale, start new channels, cross layers."""

"""The thin loop around the passes: data sets, recipes, run folders, the demo, plots. Behind `nrfx train`."""

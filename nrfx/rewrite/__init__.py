"""From a plan to a new module, the checks that it is the planned one, and the passes for the user."""

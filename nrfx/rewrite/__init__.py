"""What builds: a new module from a plan, the check that it keeps the function, and the passes for the user."""

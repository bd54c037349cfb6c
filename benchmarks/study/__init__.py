"""Trainings on the handwritten digits: the rows of Table 1, the search, held channels, running statistics."""

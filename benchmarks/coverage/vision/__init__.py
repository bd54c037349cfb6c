"""All models of torchvision and some of timm: whole, rewritten in six ways, and how long the analysis takes."""

from benchmarks.coverage.catalogue import Catalogue
from benchmarks.coverage.model import in_batch, shapes
from benchmarks.coverage.vision.check import WholeExamination
from benchmarks.coverage.vision.models import models
from benchmarks.coverage.vision.page import SUMMARY, page, summary
from benchmarks.coverage.vision.row import WholeRow

VISION = Catalogue(
    "coverage",
    models,
    WholeExamination,
    WholeRow,
    shown=lambda model: shapes(in_batch(model.inputs, 1)).removeprefix("1x"),
    heading="Families",
    columns=SUMMARY,
    summary=summary,
    page=page,
    whole=True,
    preloaded=("timm",),
)

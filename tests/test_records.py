"""Records: dataclasses that compare, hash and copy as frozen ones do."""

from dataclasses import asdict, fields, replace

import torch

from nrfx.records import record
from nrfx.rules import Site


@record
class Named:
    """A name and a number."""

    name: str
    number: int = 0


def test_equal_records_are_one_key_and_a_copy_with_changes_leaves_the_first() -> None:
    one, other = Named("a"), replace(Named("a"), number=1)
    assert {one: 1, Named("a", 0): 2} == {Named("a"): 2}
    assert (one.number, other.number, asdict(other)) == (0, 1, {"name": "a", "number": 1})
    assert [field.name for field in fields(one)] == ["name", "number"] and one != other


def test_a_rule_makes_them_by_position_and_by_name() -> None:
    layout = torch.arange(3)
    assert hash(Site("weight", 0, layout)) == hash(Site(parameter="weight", dim=0, layout=layout))

"""The fuzzer: damaged files are refused or identical, and its checks can fail."""

from pathlib import Path

import pytest
import torch

import nrfx
from benchmarks.soundness import fuzz
from benchmarks.soundness.fuzz import MAKE, company, examined, subject
from benchmarks.soundness.fuzz_page import document, lines, rows
from benchmarks.soundness.mutants import DAMAGE, FORGERIES, File, Mutant, mutant
from nrfx.checkpoint import file as checkpoint_file
from nrfx.checkpoint.digests import Digests


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:
    return {name: subject(name, tmp_path_factory.mktemp(name)) for name in MAKE}


@pytest.mark.parametrize("start", [0, 54])
def test_a_hundred_mutants_end_as_they_should(start: int, subjects: dict[str, File], tmp_path: Path) -> None:
    endings = {}
    for number in range(start, start + 54):
        one = mutant(17, number, subjects)
        endings[number] = f"{one.kind} of {one.subject}", examined(one, subjects[one.subject], tmp_path)
    wrong = {number: each for number, each in endings.items() if each[1] not in ("refused", "identical", "as written")}
    assert not wrong
    assert {kind.split(" of ")[0] for kind, _ in endings.values()} <= {
        k.split(" of ")[0] for k in (*DAMAGE, *FORGERIES)
    }


def test_the_subjects_hold_all_that_a_file_can(subjects: dict[str, File]) -> None:
    plans = {name: file.content["plan"] for name, file in subjects.items()}
    schemes = {name: {layer["config"]["scheme"] for layer in plan["layers"]} for name, plan in plans.items()}
    assert schemes == {"attention": {"attention"}, "removed": {"removed"}, "viewed": set()}
    assert max(len(layer["config"]["in_generations"]) for layer in plans["removed"]["layers"]) == 3
    viewed = plans["viewed"]
    assert all(viewed[key] for key in ("literals", "norms", "aliases", "frozen", "channels_last", "other_mode"))
    assert all(file.content["optimizer"]["dict"]["state"]["dict"] for file in subjects.values())
    assert [bool(file.content["rejuvenator"]) for file in subjects.values()] == [True, True, False]


def test_a_mutant_follows_from_its_seed_and_number(subjects: dict[str, File]) -> None:
    one, other = mutant(3, 100, subjects), mutant(3, 100, subjects)
    assert one == other
    assert one.content != mutant(4, 100, subjects).content


def test_a_loader_that_passes_over_digests_is_found(
    subjects: dict[str, File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digests, "check", lambda *_: None)
    kinds = list({**DAMAGE, **FORGERIES})
    numbers = {kind: kinds.index(kind) for kind in ("two tensors swapped", "NaN or infinity in a tensor")}
    for number in numbers.values():
        one = mutant(0, number, subjects)
        assert examined(one, subjects[one.subject], tmp_path) == "other numbers"
    file = subjects["attention"]
    edited = Mutant("plan", "attention", file.packed(nrfx=file.metadata["nrfx"].replace('"lr": 0.01', '"lr": 0.02')))
    assert examined(edited, file, tmp_path) == "another plan"


def test_another_exception_and_a_changed_model_are_found(
    subjects: dict[str, File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = subjects["attention"]
    whole = Mutant("truncated", "attention", file.whole)
    assert examined(whole, file, tmp_path) == "identical"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_file, "parsed", lambda *_, **__: {}["gone"])
        assert examined(whole, file, tmp_path) == "KeyError: 'gone'"

    def spoils(_: object, model: torch.nn.Module, *__: object) -> None:
        model.eval()
        raise nrfx.errors.CheckpointError("no")

    monkeypatch.setattr(nrfx, "load", spoils)
    assert examined(whole, file, tmp_path) == "refused, but something was changed"


def test_a_forgery_that_does_not_train_is_found(
    subjects: dict[str, File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = subjects["removed"]
    forged = Mutant(next(iter(FORGERIES)), "removed", file.whole)
    assert examined(forged, file, tmp_path) == "as written"
    monkeypatch.setattr(fuzz, "train", lambda *_: {}["gone"])
    assert examined(forged, file, tmp_path) == "in the next step KeyError: 'gone'"


def test_a_company_is_fresh_each_time() -> None:
    assert company("attention").state()[0] != company("attention").state()[0]


def test_endings_are_counted_by_kind_and_anything_else_is_otherwise() -> None:
    endings = [
        {"kind": "plan", "ending": ending, "seconds": 0.5}
        for ending in ("refused", "refused", "identical", "as written", "KeyError: 'x'", "other numbers")
    ]
    (row,) = rows(endings)
    assert (row.files, row.refused, row.identical, row.written, row.otherwise) == (6, 2, 1, 1, 2)
    assert list(lines([row]))[-1] == ("all", "6", "2", "1", "1", "2")
    assert "Of 6 files of `nrfx.save` that were changed at random, 2 ended otherwise" in document([row], 0)

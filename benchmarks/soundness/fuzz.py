"""Damages files of `nrfx.save` in thousands of ways, and loads each: refused by name, or what was saved.

Three small networks after rejuvenations, with optimizer and Rejuvenator: cross layers that attend, cross layers without
cross connections, and one with widths stated as numbers, tied and frozen parameters. Each mutant (mutants.py) is loaded
into a fresh model, with at most 10 s of CPU time and 1 GiB more memory. It must be refused by an error of nrfx, with
model, optimizer and Rejuvenator as they were, or give the network, optimizer state and plan that were saved, bit by
bit. Where the digests were mended too, a file may say something else: what is loaded must then be that, to the last
number, and train two steps. `python -m benchmarks fuzz --mutants 5000 --seed 0` adds each to build/fuzz.jsonl,
`--resume` goes on there, and writes benchmarks/results/fuzz.csv and docs/damaged_files.md. Exit status 1: a mutant
ended otherwise.
"""

import json
import math
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer

import nrfx
from benchmarks.command import DOCS, RESULTS, ROOT, parser_of, verdict, write
from benchmarks.soundness.fuzz_page import HEADINGS, Row, document, lines, rows
from benchmarks.soundness.mutants import File, Mutant, mutant
from benchmarks.soundness.trained import SHAPE, Company, Viewed, adamw, plain, sgd, train
from benchmarks.table import terminal
from nrfx.errors import NrfxError
from nrfx.training.rejuvenator import Rejuvenator

TABLE, DOCUMENT, DONE = RESULTS / "fuzz.csv", DOCS / "damaged_files.md", ROOT / "build" / "fuzz.jsonl"
NOW = ROOT / "build" / "fuzz.json"
"""The mutant under way: what a process that ended by a signal was about."""

SECONDS, MEMORY = 10, 2**30
"""Limits of one mutant: CPU seconds, behind which SIGPROF ends the process, and bytes."""

MAKE: Mapping[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Optimizer]]] = {
    "attention": (plain, sgd),
    "removed": (plain, adamw),
    "viewed": (Viewed, sgd),
}
"""Subject -> its model, and what trains it."""


def company(subject: str) -> Company:
    """A fresh model with its optimizer and, but for `viewed`, its Rejuvenator."""
    make, optimizer_of = MAKE[subject]
    model = nrfx.trace(make().train(), torch.zeros(SHAPE))
    optimizer = optimizer_of(model)
    if subject == "viewed":
        return Company(model, optimizer, None)
    budget = nrfx.Budget.relative(model, params=0.9)
    nr = Rejuvenator(model, optimizer, budget, 0.8, 2, max_events=3, shrink_beta=0.5, scheme=subject)
    return Company(model, optimizer, nr)


@torch.no_grad()
def kill(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            norm.weight[::2] = 0


def subject(name: str, folder: Path) -> File:
    """The saved file of a subject: trained, rejuvenated twice (`viewed`: compacted), trained on."""
    torch.manual_seed(0)
    one = company(name)
    module = one.model
    if one.rejuvenator is None:
        kill(module)
        module = nrfx.compact(module).module.train()
        module.get_parameter("a.bias").requires_grad_(False)
        module.get_submodule("last").eval()
        module.get_parameter("first.weight").data = module.get_parameter("first.weight").to(
            memory_format=torch.channels_last
        )
        one = Company(module, sgd(module), None)
        module = train(one, range(3))
    else:
        for event in range(2):
            kill(one.rejuvenator.module)
            module = train(one, range(2 * event, 2 * event + 2))
        assert one.rejuvenator.events == 2
        module = train(one, range(4, 5))
    nrfx.save(folder / name, module, one.optimizer, one.rejuvenator)
    file = File.of((folder / name).read_bytes())
    return File.of(file.packed())


def normal(file: File) -> Any:
    """What a file says, without the order of names that means nothing."""
    content = file.content
    for key in ("frozen", "channels_last", "other_mode", "leaves"):
        content["plan"][key] = sorted(content["plan"].get(key, []))
    content["plan"]["layers"].sort(key=json.dumps)
    for key in ("literals", "norms"):
        content["plan"].setdefault(key, {})
    return content


def same(a: Any, b: Any) -> bool:
    """Equal JSON, for which NaN is NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Bit by bit, dtype and shape included."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].reshape(-1).view(torch.uint8).equal(b[name].reshape(-1).view(torch.uint8))
        for name in a
    )


def examined(one: Mutant, original: File, folder: Path) -> str:
    """How loading the mutant ends: "refused", "identical", "as written" for a forgery, or what is wrong."""
    path, fresh = folder / "mutant", company(one.subject)
    path.write_bytes(one.content)
    before = fresh.state()
    try:
        module = nrfx.load(path, fresh.model, fresh.optimizer, fresh.rejuvenator)
    except NrfxError:
        return "refused" if same(fresh.state(), before) else "refused, but something was changed"
    except BaseException as error:  # whatever else comes is what this file looks for
        return _foreign(error)
    loaded = Company(module, fresh.optimizer, fresh.rejuvenator)
    try:
        nrfx.save(folder / "again", module, fresh.optimizer, fresh.rejuvenator)
    except BaseException as error:
        return f"saved again {_foreign(error)}"
    again = File.of((folder / "again").read_bytes())
    wanted = File.of(one.content) if one.is_forged else original
    if not equal(again.tensors, wanted.tensors):
        return "other numbers"
    if not same(normal(again), _with_missing_options(normal(wanted), normal(again))):
        return "another plan"
    return _next_steps(loaded) if one.is_forged else "identical"


def _with_missing_options(content: Any, loaded: Any) -> Any:
    """Options of the optimizer that a file lacks, as one of an older torch may, are those of the fresh optimizer."""
    groups = [each["optimizer"]["dict"]["groups"] for each in (content, loaded)]
    for group, own in zip(*groups, strict=False):
        group["dict"]["options"]["dict"] = own["dict"]["options"]["dict"] | group["dict"]["options"]["dict"]
    return content


def _next_steps(loaded: Company) -> str:
    try:
        train(loaded, range(5, 7))
    except NrfxError:
        return "as written"  # such as a norm that has diverged
    except BaseException as error:
        return f"in the next step {_foreign(error)}"
    return "as written"


def _foreign(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def work(seed: int, numbers: Sequence[int]) -> None:
    """Examines mutants one after the other, and adds each to the file; limits end the process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as scratch, DONE.open("a") as done:
        folder = Path(scratch)
        subjects = {name: subject(name, folder) for name in MAKE}
        for number in numbers:
            one = mutant(seed, number, subjects)
            told = {"seed": seed, "number": number, "kind": one.kind, "subject": one.subject}
            NOW.write_text(json.dumps({**told, "seconds": SECONDS}))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            start = time.process_time()
            ending = examined(one, subjects[one.subject], folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = round(time.process_time() - start, 3)
            done.write(json.dumps({**told, "seconds": seconds, "ending": ending}) + "\n")
            done.flush()


def known(seed: int) -> dict[int, dict[str, Any]]:
    """What was examined already, by number."""
    if not DONE.exists():
        return {}
    read = [json.loads(line) for line in DONE.read_text().splitlines()]
    return {line["number"]: line for line in read if line["seed"] == seed}


def carry_out(seed: int, mutants: int) -> list[dict[str, Any]]:
    """Examines what is missing, in processes of their own, for a mutant may end one."""
    while set(range(mutants)) - known(seed).keys():
        command = [sys.executable, "-m", "benchmarks", "fuzz", "--seed", str(seed), "--mutants", str(mutants), "--work"]
        ended = subprocess.run(command, cwd=ROOT, check=False).returncode
        if ended > 0:
            raise RuntimeError("the fuzzer itself failed, see above")
        if ended < 0:
            how = f"the process ended by {signal.Signals(-ended).name}"
            with DONE.open("a") as done:
                done.write(json.dumps({**json.loads(NOW.read_text()), "ending": how}) + "\n")
    return [line for number, line in sorted(known(seed).items()) if number < mutants]


def main(arguments: Sequence[str]) -> int:
    """Runs what is asked for, and writes the files of a full run."""
    parser = parser_of("fuzz", __doc__, "--mutants 5000 --seed 0")
    parser.add_argument("--mutants", type=int, default=5000, help="how many; fewer write no file (5000)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--resume", action="store_true", help="go on with build/fuzz.jsonl")
    parser.add_argument("--work", action="store_true", help="examine in this process what is missing, and say nothing")
    options = parser.parse_args(arguments)
    DONE.parent.mkdir(exist_ok=True)
    if options.work:
        work(options.seed, sorted(set(range(options.mutants)) - known(options.seed).keys()))
        return 0
    if not options.resume:
        DONE.unlink(missing_ok=True)
    console = Console()
    endings = carry_out(options.seed, options.mutants)
    counted: list[Row] = rows(endings)
    console.print(terminal("Files that were damaged", HEADINGS, lines(counted)))
    for line in endings:
        if line["ending"] not in ("refused", "identical", "as written"):
            console.print(f"{line['number']}: {line['kind']} of {line['subject']}: {line['ending']}", markup=False)
    if options.mutants >= 5000:
        write({TABLE: counted, DOCUMENT: document(counted, options.seed)}, console)
    return verdict([row.otherwise == 0 for row in counted], "kinds end as they should", console)

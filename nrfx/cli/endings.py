"""Commands that a signal ends: they leave the terminal and their files as they should be, and say how to go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def terminations() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated where they would end the process at once, its cursor hidden."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def going_on_with(command: str, begun: Path) -> Iterator[None]:
    """Adds to an interruption the command that goes on where it came, if the file that a run begins with is there."""
    try:
        yield
    except KeyboardInterrupt as ending:
        if begun.exists():
            ending.add_note(f"({command} goes on from the last epoch that ended)")
        raise


def described(ending: KeyboardInterrupt) -> str:
    """What the line on stderr says."""
    return "terminated" if isinstance(ending, Terminated) else "interrupted"


def status_of(ending: KeyboardInterrupt) -> int:
    """The exit status: 128 and the number of the signal."""
    return 128 + (ending.number if isinstance(ending, Terminated) else signal.SIGINT)

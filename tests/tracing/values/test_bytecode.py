"""The function that the code of a frame calls at its current instruction."""

import sys

from nrfx.tracing.values.bytecode import called_at


class Asking(type):
    """A class of classes that put down which function asks for their instances."""

    def __instancecheck__(cls, instance: object) -> bool:
        caller = sys._getframe(1)
        asked.append(called_at(caller.f_code, caller.f_lasti))
        return True


class Asked(metaclass=Asking):
    pass


asked: list[str | None] = []


def test_calls_are_known_by_the_name_of_their_function_also_once_python_has_specialised_them() -> None:
    def asks(value: object) -> bool:
        return isinstance(value, Asked)

    asked.clear()
    for _ in range(100):
        asks(3)
    assert asked == ["isinstance"] * 100


def test_a_call_of_a_method_has_no_such_name() -> None:
    class Value:
        def frame(self) -> str | None:
            caller = sys._getframe(1)
            return called_at(caller.f_code, caller.f_lasti)

    assert Value().frame() is None

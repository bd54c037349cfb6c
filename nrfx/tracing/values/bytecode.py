"""What the code of a frame is doing at its current instruction."""

import dis
import types


def called_at(code: types.CodeType, at: int) -> str | None:
    """The name of the function of Python or of its file that the instruction at an offset calls, None for other calls.

    >>> def asked(x):
    ...     return len((int(x), x))
    >>> code = asked.__code__
    >>> calls = [i.offset for i in dis.get_instructions(code) if i.opname == "CALL"]
    >>> [called_at(code, at) for at in calls]
    ['int', 'len']
    """
    # Python 3.11 runs calls that it has specialised, such as isinstance, at the instruction before CALL
    if not dis.opname[code.co_code[at]].startswith(("CALL", "PRECALL")):
        return None
    instructions = list(dis.get_instructions(code))
    call = next(one for one in instructions if one.offset == at)
    # a call and the name of its function begin at one place of the source
    start = call.positions and (call.positions.lineno, call.positions.col_offset)
    names = [one for one in instructions if one.opname in ("LOAD_GLOBAL", "LOAD_NAME") and one.offset < at]
    named = [
        one.argval for one in names if (one.positions and (one.positions.lineno, one.positions.col_offset)) == start
    ]
    return named[-1] if named else None


def loads(code: types.CodeType, at: int) -> str | None:
    """The name of the attribute that the instruction at an offset loads, None for other instructions."""
    if dis.opname[code.co_code[at]] != "LOAD_ATTR":
        return None
    return next(str(one.argval) for one in dis.get_instructions(code) if one.offset == at)


def catches(code: types.CodeType) -> bool:
    """Whether the code has a `try` or a `with`, which may do something else where an error comes.

    >>> def plain(x):
    ...     return x
    >>> def trying(x):
    ...     try:
    ...         return plain(x)
    ...     except TypeError:
    ...         return None
    >>> catches(plain.__code__), catches(trying.__code__)
    (False, True)
    """
    return bool(code.co_exceptiontable)

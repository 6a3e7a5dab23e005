"""What two processes say to each other: frames, and values as bytes. No I/O.

A frame is a header, the sizes of its parts, and the parts. The first part is a pickle (protocol 5); the others are the
buffers that pickle can leave out of band, such as the data of an array, so that large data is copied as little as
possible: large `bytes` are not copied into the pickle either.

Both sides run the same program, so pickle is as safe as the program is. What it cannot do is said in words that a user
understands: `pack` finds out which value is at fault.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Any, TypeAlias, cast

from ...runtime.errors import RemoteError
from ...runtime.node import full_text, one_line
from ...runtime.spec import Bindable
from .main_module import names_main, unpickler_for_main

Buffer: TypeAlias = bytes | bytearray | memoryview

_HEADER = struct.Struct("<BxxxIQ")  # kind, number of parts, ident
_SIZE = struct.Struct("<Q")
HEADER_SIZE = _HEADER.size
SMALL = 64 * 1024  # up to here, to copy is cheaper than to send once more


class Kind(IntEnum):
    """What a frame is about. `ident` names the message, 0 none."""

    PREPARE = 1  # to the process: where the program is found, and whose incarnation it is
    START = 2  # the actor: its class and arguments
    CALL = 3  # a message
    CANCEL = 4  # its caller has gone
    STOP = 5  # finish what is in hand, and end; ident 1: be quick
    READY = 16  # from the process: the actor has started
    RESULT = 17  # what the handler returned
    ANSWER = 18  # an error that is an answer
    UNREADABLE = 19  # the message could not be unpickled there: it was not handled
    UNSENDABLE = 20  # the handler has run; its result or error cannot be sent
    REFUSED = 21  # the actor takes no more messages: not handled
    UNWOUND = 22  # the handler was cancelled and has ended
    CRASHED = 23  # the actor has died of an error, or could not start
    LEAVING = 24  # the actor has decided to end: no more messages
    ENDED = 25  # it has ended, without an error


@dataclass(frozen=True, slots=True)
class Frame:
    """What has come from the other process."""

    kind: Kind
    ident: int
    parts: Sequence[bytearray]


@dataclass(frozen=True, slots=True)
class Packed:
    """A value on its way out: its parts, one after the other, and the size of each."""

    sizes: Sequence[int] = ()
    chunks: Sequence[Buffer] = ()

    def parts(self) -> list[bytearray]:
        """As they arrive on the other side."""
        data = memoryview(b"".join(self.chunks))
        ends = list(accumulate(self.sizes))
        return [bytearray(data[end - size : end]) for size, end in zip(self.sizes, ends, strict=True)]


NOTHING = Packed()


def frame(kind: Kind, ident: int = 0, packed: Packed = NOTHING) -> list[Buffer]:
    """The bytes of a frame; what is small in one piece."""
    head = _HEADER.pack(kind, len(packed.sizes), ident) + b"".join(map(_SIZE.pack, packed.sizes))
    if sum(packed.sizes) <= SMALL:
        return [b"".join((head, *packed.chunks))]
    return [head, *packed.chunks]


def read_header(data: Buffer) -> tuple[Kind, int, int]:
    """Kind, ident and number of parts."""
    kind, parts, ident = _HEADER.unpack(data)
    return Kind(kind), ident, parts


def sizes_size(parts: int) -> int:
    """How many bytes the sizes of so many parts take."""
    return parts * _SIZE.size


def read_sizes(data: Buffer) -> list[int]:
    """The sizes of the parts."""
    return [size for (size,) in _SIZE.iter_unpack(data)]


# --- values ---------------------------------------------------------------------------------------


class Unpicklable(Exception):
    """A value cannot be pickled, or not be read again. `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Chunks:
    """What a pickler writes. A large `bytes` object is handed over as it is, not copied."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.write = self.chunks.append


def pack(value: object, pickler: Callable[..., pickle.Pickler] = pickle.Pickler) -> Packed:
    """A value on its way out. Raises `Unpicklable`."""
    out, buffers = _Chunks(), list[pickle.PickleBuffer]()
    try:
        pickler(out, protocol=5, buffer_callback=buffers.append).dump(value)
        raw = [buffer.raw() for buffer in buffers]
    except Exception as error:  # whatever the value's own methods raise
        raise Unpicklable(one_line(error)) from error
    sizes = [sum(map(len, out.chunks)), *(view.nbytes for view in raw)]
    return Packed(sizes, [*out.chunks, *raw])


def unpack(parts: Sequence[bytearray]) -> Any:
    """The value. Raises `Unpicklable` if it cannot be made here."""
    try:
        if names_main(parts[0]):
            return unpickler_for_main(parts[0], parts[1:]).load()
        return pickle.loads(parts[0], buffers=parts[1:])
    except Exception as error:  # whatever the value's own methods raise, or the import of its module
        raise Unpicklable(one_line(error)) from error


def culprit(args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[str, str]:
    """Which argument cannot be pickled, and why. None of them alone: what they are together."""
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for what, value in named:
        if isinstance(value, Bindable):
            return f"{what} ({type(value).__qualname__})", "a handle reaches actors of its own process only"
        try:
            pack(value)
        except Unpicklable as error:
            return f"{what} ({type(value).__qualname__})", error.reason
    return "the arguments", "together they cannot be pickled"


# --- errors ---------------------------------------------------------------------------------------


class _ErrorPickler(pickle.Pickler):
    """Pickles exceptions by what they hold, not by calling their constructor again.

    Python would call ``type(error)(*error.args)``, which fails, or makes something else, whenever a constructor takes
    other arguments than it hands on to `Exception`.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Exception) or _has_its_own_way(type(obj)):
            return NotImplemented
        return _rebuild, (type(obj), obj.args, dict(obj.__dict__))


def _has_its_own_way(kind: Any) -> bool:
    return kind.__reduce__ is not BaseException.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__


def _rebuild(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    constructors = [vars(cls)["__init__"] for cls in kind.__mro__ if "__init__" in vars(cls)]
    built_in = next(init for init in constructors if not hasattr(init, "__code__"))
    error = kind.__new__(kind, *args)
    built_in(error, *args)
    error.__dict__.update(state)
    return error


def pack_error(error: Exception, text: str = "") -> Packed:
    """An error on its way out, and the text of its traceback.

    What cannot be sent, or not be read again, goes as text alone: see `unpack_error`.
    """
    line, text = one_line(error), text or full_text(error)
    try:
        packed = pack((error, line, text), _ErrorPickler)
        unpack(packed.parts())  # many an error can be pickled and not be read again
    except Unpicklable:
        return pack((None, line, text))
    return packed


def unpack_error(parts: Sequence[bytearray]) -> Exception:
    """The error, with its traceback over there as `__cause__`; or a `RemoteError` that stands in for it."""
    error, line, text = unpack(parts)
    told = RemoteError(line, text)
    if error is None:
        return told
    error.__cause__ = told
    return cast("Exception", error)

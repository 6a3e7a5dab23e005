"""`process_child`: the spec of an actor that runs in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from ...runtime.actor import Actor
from ...runtime.errors import SpecInvalid
from ...runtime.spec import ActorSpec, Bindable, child
from .host import Order, host_of
from .main_module import where_main_is
from .version import VERSION
from .wire import Packed, Unpicklable, culprit, pack

P = ParamSpec("P")
A = TypeVar("A", bound=Actor)


def process_child(cls: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> ActorSpec[A]:
    """The spec of an actor that is constructed as ``cls(*args, **kwargs)`` in a process of its own.

    As `child`, and used as one: handles, supervisors, pools, options and statistics are the same. Its handlers may
    compute, or block, for as long as they like. Each incarnation is a new process, a fresh Python that imports the
    module of `cls`: no memory is shared, and nothing is forked. It takes some tenths of a second to start.

    What goes over is pickled. Arguments and results that cannot be get `NotSendable`; handles cannot. A handler that is
    cancelled and does not end within `unwind_grace`, as computing code does not, has its process killed: the message is
    `OutcomeUnknown`, and the supervisor starts another process. `kill` kills at once. A process that ends by itself is
    a crash, `ProcessDied`.

    In a deterministic run (`creche.testing.run`) the actor lives in this process.

    Raises
    ------
    SpecInvalid
        As `child`; or `cls` or an argument cannot be sent, or `cls` has a batched message or a handover, or this is no
        POSIX system.
    """
    if os.name != "posix":
        raise SpecInvalid("process_child", os.name, "actors in processes need a POSIX system; use creche.child")
    inner = child(cls, *args, **kwargs)
    order = Order(inner.cls, VERSION, _packed(inner.cls, args, kwargs))
    return ActorSpec(host_of(inner.cls), (order,))


def _packed(cls: type[Actor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    if cls.__handover__ is not None:
        raise SpecInvalid("process_child", cls, "its `handover` would have to outlive its process: use creche.child")
    if "<locals>" in cls.__qualname__:
        raise SpecInvalid("process_child", cls, "it is defined in a function: define it at the top of a module")
    if cls.__module__ == "__main__" and where_main_is() is None:
        raise SpecInvalid("process_child", cls, "it is defined in a program without a file: move it into a module")
    try:
        packed = pack((cls, args, kwargs))
    except Unpicklable:
        packed = None
    if packed is None or any(isinstance(value, Bindable) for value in (*args, *kwargs.values())):
        what, reason = culprit((*args, cls), kwargs)  # a handle that is not bound yet could be pickled
        raise SpecInvalid(f"process_child({cls.__name__}, ...)", what, f"it cannot be sent: {reason}")
    return packed

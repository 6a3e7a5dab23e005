"""Taking the log's lines in a test, to assert on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...runtime.context import current_runtime
from .config import REDACTED
from .entry import Composer, Who
from .levels import NUMBERS, Level
from .logger import CAPTURED, SERVICE
from .runtime_events import fields_of, headline
from .values import Values, safe_repr

if TYPE_CHECKING:
    from ...runtime.events import Event
    from ...runtime.runtime import Runtime


class Capture:
    """The lines that a test has taken: `lines`, oldest first, each with the keys that it would have in the log.

    Made by `capture` and by the fixture in `creche.components.clog.testing`.
    """

    def __init__(self, level: Level = "debug", clock: Callable[[], float] = time.time) -> None:
        self.level = NUMBERS[level]
        self.lines: list[dict[str, Any]] = []
        self._composer = Composer(Values(REDACTED, safe_repr), clock)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Capture {self.messages}>"

    @property
    def messages(self) -> list[str]:
        """What the lines say, without their fields."""
        return [line["msg"] for line in self.lines]

    def find(self, msg: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """The lines with this message (None: any) and these fields."""
        wanted = fields if msg is None else {**fields, "msg": msg}
        return [line for line in self.lines if all(line.get(key) == value for key, value in wanted.items())]

    def clear(self) -> None:
        """Forget the lines so far."""
        self.lines.clear()

    @contextmanager
    def of(self, runtime: Runtime) -> Generator[Capture]:
        """Take the lines of this runtime inside the block, its events included. A clog that runs in it gets none."""
        services, written_by = runtime.services, runtime.services.get(SERVICE)
        taker = _Taker(self, runtime.name)
        services[SERVICE] = taker
        unsubscribe = runtime.events.subscribe(taker.on_event)
        try:
            yield self
        finally:
            unsubscribe()
            if services.get(SERVICE) is taker:  # else the log has ended meanwhile
                del services[SERVICE]
                if written_by is not None:
                    services[SERVICE] = written_by

    @contextmanager
    def outside(self) -> Generator[Capture]:
        """Take the lines of this task that no running log serves."""
        token = CAPTURED.set(_Taker(self, None))
        try:
            yield self
        finally:
            CAPTURED.reset(token)

    def take(
        self, service: str | None, level: int, msg: str, namespace: str, fields: Mapping[str, object], who: Who | None
    ) -> None:
        """Add one line."""
        entry = self._composer.entry(service, level, msg, namespace, fields, who)
        with self._lock:
            self.lines.append(entry)


class _Taker:
    """A `Sink` in the sense of `logger`."""

    def __init__(self, capture: Capture, service: str | None) -> None:
        self._capture = capture
        self._service = service
        self.level = capture.level

    def emit(self, level: int, msg: str, namespace: str, fields: Mapping[str, object], who: Who | None = None) -> None:
        self._capture.take(self._service, level, msg, namespace, fields, who)

    def on_event(self, event: Event) -> None:
        level, msg = headline(event)
        if level >= self.level:
            self.emit(level, msg, "runtime", fields_of(event), (event.path, event.incarnation))


@contextmanager
def capture(runtime: Runtime | None = None, *, level: Level = "debug") -> Generator[Capture]:
    """Take lines inside the block instead of writing them.

    ::

        with clog.capture() as log:
            await shop.ask.buy("book")
        assert log.find("sold", item="book")

    Parameters
    ----------
    runtime
        Whose lines; None: those of the runtime that is open around the block, or, where none is, those of this task.
    level
        The lowest that is taken.
    """
    taken = Capture(level)
    of = runtime or current_runtime()
    with taken.outside() if of is None else taken.of(of):
        yield taken

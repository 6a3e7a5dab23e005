"""What a sink does with a line: its config at this moment, made ready for use.

A new config makes a new one. The sampler and the recorder count, so a lock guards them: lines come from any thread. It
is re-entrant because a finalizer that logs may run at any allocation, also while this very thread holds it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, cast

from ...runtime.context import PLACE
from .config import Config
from .entry import Composer, Entry, Who
from .levels import DEBUG, NUMBERS
from .recorder import Recorder
from .sampling import Sampler
from .values import Values


class Policy:
    """See above. `clock` gives seconds; the others as in `Composer` and `Values`."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        unknown: Callable[[Any], Any],
        new_trace_id: Callable[[], str] | None,
    ) -> None:
        self.config = config
        self.composer = Composer(
            Values(config.redact, unknown),
            clock,
            add_source=config.add_source,
            root_path=config.root_path,
            full_tracebacks=config.full_tracebacks,
            new_trace_id=new_trace_id,
        )
        self.sampled = 0
        self._clock = clock
        self._lock = threading.RLock()
        self._sampler = None if config.sampling is None else Sampler(config.sampling)
        self._recorder = Recorder(config.flight_recorder) if config.flight_recorder else None
        self._levels = {name: NUMBERS[level] for name, level in config.levels.items()}
        self._general = NUMBERS[config.level]
        # The lowest level of which any line is of interest.
        self.level = DEBUG if self._recorder is not None else min([self._general, *self._levels.values()])
        # Whether a line of that level may be left out all the same.
        self.selective = self._recorder is not None or self._sampler is not None or bool(self._levels)
        # Namespaces are mostly constants of the code; the bound is for those that are data.
        self._level_of: Callable[[str], int] = functools.lru_cache(maxsize=1024)(self._find_level)

    def _find_level(self, namespace: str) -> int:
        """The level of the nearest namespace from here up that has one of its own."""
        while namespace:
            if namespace in self._levels:
                return self._levels[namespace]
            namespace = namespace.rpartition(".")[0]
        return self._general

    def admits(self, level: int, namespace: str, msg: str, who: Who | None) -> int | None:
        """Whether a line is written: how many of its kind sampling has left out since the last one, or None."""
        if level < self._level_of(namespace):
            return None
        sampler = self._sampler
        if sampler is None:
            return 0
        kind = (level, namespace, msg, who)
        with self._lock:
            if sampler.admits(kind, self._clock()):
                return sampler.left_out(kind)
            self.sampled += 1
        return None

    def records(self, who: Who | None) -> bool:
        """Whether a line that is not written is kept: only an actor's."""
        return self._recorder is not None and (who is not None or PLACE.get() is not None)

    def record(self, entry: Entry) -> None:
        """Keep a line until the actor crashes or ends."""
        if self._recorder is not None:
            path, incarnation = entry["actor"], entry["incarnation"]
            with self._lock:
                self._recorder.keep(str(path), cast("int", incarnation), {**entry, "recorded": True})

    def recorded(self, path: str, incarnation: int) -> list[Entry]:
        """What an incarnation, which has crashed, would have said."""
        if self._recorder is None:
            return []
        with self._lock:
            return self._recorder.take(path, incarnation)

    def forget(self, path: str) -> None:
        """An actor has ended."""
        if self._recorder is not None:
            with self._lock:
                self._recorder.forget(path)

"""The sink of a running clog: where lines become bytes.

Theory of operation
-------------------
    any task or thread: emit ─▶ policy ─▶ compose ─▶ encode ─▶ buffer ─▶ outlet: pending ─▶ output
                                  └─▶ flight recorder ─▶ (a crash) ─┘

The sink belongs to the cell, not to the incarnation (`ActorContext.keep`): a crash of the clog actor stops
the writing for a moment and nothing else. Everybody finds it in `runtime.services`; only the actor's
background task writes.

A line is encoded when it is logged, because its fields may change afterwards, and because bytes are cheap to
write. One that only goes to the flight recorder is composed, for the same reason, and encoded if it is needed.

What a line goes through is decided by one object, `policy`, which a new config replaces in one assignment.

eliot is used through its public seams, and nothing global of it is touched. Its `Destinations` would be the
whole process's, shared by all runtimes in it, and making a private one takes private names. So: a `Logger` of
ours is an eliot `ILogger`; entries are encoded (by orjson) and written by eliot's `FileDestination`, whose
file is our buffer; its `json_default` makes foreign values plain; and a line inside of an eliot action
carries the action's task uuid and level, so that eliot's tools see it in the action's tree.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import trio

from ...runtime import events
from ...runtime.errors import SpecInvalid
from .bootstrap import BOOTSTRAP
from .buffer import Buffer
from .config import Config, require_changeable
from .entry import Entry, Who
from .errors import OutputFailed
from .formats import console_line
from .levels import ERROR, WARNING
from .logger import SERVICE
from .outlet import Outlet, Statistics
from .output import open_output
from .policy import Policy
from .runtime_events import fields_of, headline
from .stdlib import RecordHandler
from .trace import hexadecimal
from .values import encodable, safe_text

if TYPE_CHECKING:
    from ...runtime.events import Event
    from ...runtime.runtime import Runtime

_OWN = "clog"  # the namespace of what the log says about itself
_RUNTIME = "runtime"  # and of what the runtime reports


class Sink:
    """See above. Made inside a Trio run, and the log of its runtime from then on."""

    def __init__(self, runtime: Runtime, config: Config, path: str, clock: Callable[[], float]) -> None:
        if SERVICE in runtime.services:
            raise SpecInvalid(SERVICE, path, "a runtime has one log, and this one has it already: stop that first")
        eliot = import_eliot()
        self._runtime = runtime
        self._path = path
        self._clock = clock
        self._plain: Callable[[Any], Any] = eliot.json.json_default
        # A stream of its own: a line more or less must not change what else the runtime draws.
        self._dice = random.Random(runtime.random.getrandbits(256))
        self._policy = self._new_policy(config)
        self._sampled_before = 0  # by policies of the past
        self._current_action: Callable[[], Any] = eliot.current_action
        self._buffer = Buffer(config.buffer, self._report_dropped)
        self._color = bool(config.color)
        to_json: Callable[[Entry], None] = eliot.FileDestination(file=self._buffer)
        self._encode = to_json if config.format == "json" else self._to_console
        self._limiter = trio.CapacityLimiter(1)  # its own: a service that keeps all threads busy can still log
        self.outlet = Outlet(self._buffer)
        runtime.services[SERVICE] = self
        self._unsubscribe = runtime.events.subscribe(self._on_event)
        self._records = RecordHandler(self)
        if config.capture_logging:
            logging.getLogger().addHandler(self._records)

    # --- the config -----------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The one that holds at this moment."""
        return self._policy.config

    def apply(self, config: Config) -> None:
        """Let another config hold from the next line on. Raises `ConfigInvalid`, and then nothing has changed.

        What the flight recorder and the sampling have gathered so far is dropped.
        """
        require_changeable(self.config, config)
        if config != self.config:
            self._sampled_before += self._policy.sampled
            self._policy = self._new_policy(config)

    def _new_policy(self, config: Config) -> Policy:
        return Policy(config, self._clock, self._plain, lambda: hexadecimal(self._dice.getrandbits(128)))

    @property
    def level(self) -> int:
        """The lowest that is worth composing a line for."""
        return self._policy.level

    # --- taking lines (any thread) --------------------------------------------------------------

    def emit(
        self,
        level: int,
        msg: str,
        namespace: str,
        fields: Mapping[str, object],
        who: Who | None = None,
        source: str | None = None,
    ) -> None:
        """Take one line. Part of `Emitter`; `who` and `source` as in `Composer.entry`."""
        policy = self._policy
        left_out = policy.admits(level, namespace, msg, who) if policy.selective else 0
        if left_out is None and not policy.records(who):
            return
        entry = policy.composer.entry(self._runtime.name, level, msg, namespace, fields, who, source)
        if left_out is None:
            policy.record(entry)
            return
        if left_out:
            entry["left_out"] = left_out
        action = self._current_action()
        if action is not None:
            _add_action(entry, action)
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        try:
            self._encode(entry)
        except Exception as broken:  # text that is no Unicode; nothing else is known to come here
            self._encode(_as_text(entry, broken))

    def _to_console(self, entry: Entry) -> None:
        self._buffer.write(console_line(entry, color=self._color).encode())

    def _on_event(self, event: Event) -> None:
        policy = self._policy
        if isinstance(event, events.Crashed):
            for entry in policy.recorded(event.path, event.incarnation):
                self._write(entry)
        level, msg = headline(event)
        if level >= policy.level:
            fields = fields_of(event)
            if "traceback" in fields:
                fields["traceback"] = policy.composer.traceback(fields["traceback"])
            self.emit(level, msg, _RUNTIME, fields, (event.path, event.incarnation))
        if isinstance(event, events.Stopped):
            policy.forget(event.path)

    def _report_dropped(self, lines: int) -> None:
        # Past sampling and levels: this line makes the count whole.
        entry = self._policy.composer.entry(self._runtime.name, WARNING, "log lines dropped", _OWN, {"dropped": lines})
        self._write(entry)

    # --- writing (the clog actor) ---------------------------------------------------------------

    async def open(self) -> None:
        """Open the output, once. Raises `ConfigInvalid`."""
        if self.outlet.output is not None:
            return
        output = await self._runtime.run_blocking(
            open_output, self.config.output, self.config.rotation, self._clock, limiter=self._limiter
        )
        self.outlet.attach(output)
        if self.config.color is None:
            self._color = output.terminal

    async def push(self, patience: float) -> None:
        """Write one batch, however long the output makes it wait. Raises OSError.

        A cancel takes `patience` seconds at most, and what is not written then stays for the next push.
        """
        while not await self._runtime.run_blocking(self.outlet.push, patience, limiter=self._limiter):
            pass
        self.outlet.progressed()

    async def tidy(self) -> None:
        """One short step with what rotation has set aside: compress it, delete it."""
        try:
            await self._runtime.run_blocking(self.outlet.tidy, limiter=self._limiter)
        except OSError as error:
            self.emit(WARNING, "backup of the log not tidied", _OWN, {"error": error})

    def failed(self, error: OSError, retry_after: float) -> None:
        """A push has failed. Said once on standard error, until one succeeds."""
        first = self.outlet.failure is None
        self.outlet.failed(OutputFailed(self._path, f"{self.config.output}: {error}", retry_after))
        if first:
            BOOTSTRAP.emit(ERROR, "log output failed", _OWN, self._state_of_output())

    def statistics(self) -> Statistics:
        """See `Statistics`."""
        return self.outlet.statistics(self._sampled_before + self._policy.sampled)

    def close(self) -> None:
        """The final stop: write what can be written, say how much could not. Later lines go to `BOOTSTRAP`."""
        logging.getLogger().removeHandler(self._records)
        self._unsubscribe()
        self._runtime.services.pop(SERVICE, None)
        self.outlet.push_ready()
        if self.outlet.left:
            BOOTSTRAP.emit(ERROR, "log lines lost", _OWN, self._state_of_output())
        self.outlet.close()

    def _state_of_output(self) -> dict[str, object]:
        failure = self.outlet.failure
        reason = "it takes nothing" if failure is None else failure.reason
        return {"output": self.config.output, "reason": reason, "lines": self.outlet.left}


def import_eliot() -> Any:
    """eliot, imported here so that a service without clog does not need it; and orjson, which it uses when it is there.

    Without orjson a line costs eliot twice as much, so it is part of the extra.
    """
    try:
        import_module("orjson")
        import_module("eliot.json")
        return import_module("eliot")
    except ImportError as error:
        raise ImportError("clog needs eliot and orjson: pip install 'creche[clog]'") from error


def _add_action(entry: Entry, action: Any) -> None:
    """Where the line stands in eliot's tree; eliot's own messages say so themselves."""
    if "task_uuid" not in entry:
        task, _, level = action.serialize_task_id().decode("ascii").partition("@")
        entry["task_uuid"] = task
        entry["task_level"] = [int(step) for step in level.split("/") if step]


def _as_text(entry: Entry, broken: Exception) -> Entry:
    text: Entry = {encodable(key): encodable(safe_text(value)) for key, value in entry.items()}
    text["log_failure"] = encodable(safe_text(broken))
    return text

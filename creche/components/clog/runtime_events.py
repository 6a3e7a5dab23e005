"""What the runtime reports, as log lines."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...runtime import events
from .levels import DEBUG, ERROR, INFO, WARNING

_OWN = frozenset(
    {"time", "path", "incarnation"}
)  # the line has a time of its own; the others become actor and incarnation

# {event: (level, what the line says)}; every other event is a debug line that says its name.
_LINES: dict[type[events.Event], tuple[int, str]] = {
    events.Crashed: (ERROR, "actor crashed"),
    events.Restarting: (WARNING, "actor restarting"),
    events.Replaced: (INFO, "actor replaced"),
    events.Parked: (ERROR, "parked: crashed too often"),
    events.Unparked: (INFO, "healthy again after being parked"),
    events.AutoShutdown: (INFO, "supervisor stops itself: its significant children have ended"),
    events.Escalated: (ERROR, "supervisor gave up"),
    events.Unstopped: (ERROR, "actor did not stop"),
    events.Stuck: (ERROR, "actor stuck"),
    events.HandlerSlow: (WARNING, "handler is slow"),
    events.LoopStalled: (WARNING, "event loop stood still"),
    events.HandoverFailed: (ERROR, "actor could not hand over"),
    events.BadStop: (ERROR, "actor failed while it was stopped"),
    events.DeadLetter: (WARNING, "message never handled"),
}


def headline(event: events.Event) -> tuple[int, str]:
    """Level and message of the line for an event."""
    if isinstance(event, events.Stopped) and event.error:
        return ERROR, "actor stopped by a failure"
    return _LINES.get(type(event), (DEBUG, event.kind))


def fields_of(event: events.Event) -> dict[str, Any]:
    """The other fields of that line."""
    fields: dict[str, Any] = {"event": event.kind}
    for field in dataclasses.fields(event):
        if field.name not in _OWN:
            fields["traceback" if field.name == "detail" else field.name] = getattr(event, field.name)
    return fields

"""Child specs: how a node is made, and the rules it lives under. Plain frozen data, validated when it is made."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    runtime_checkable,
)

from .actor import Actor
from .backoff import Backoff
from .cell import Cell
from .checks import require, require_number, require_one_of, require_texts, require_type
from .context import ActorContext
from .errors import SpecInvalid
from .handle import Handle
from .intensity import Intensity
from .interposition import intake_class
from .names import require_label
from .node import Node
from .slow import time_handlers

if TYPE_CHECKING:
    from .config import Config
    from .node import Parent
    from .runtime import Runtime

P = ParamSpec("P")
A = TypeVar("A", bound=Actor)
C = TypeVar("C", bound="Config")
H = TypeVar("H")
H_co = TypeVar("H_co", covariant=True)

Restart = Literal["permanent", "transient", "temporary"]
Overflow = Literal["wait", "reject", "drop_oldest", "drop_newest", "latest_by_key"]
WhileDown = Literal["wait", "reject"]
OnExhausted = Literal["escalate", "park", "stop"]
OnSlow = Literal["tell", "kill"]
Environment = Literal["development", "production"]
Layer = Literal["foundation", "infrastructure", "governance", "service", "edge"]
LAYERS: tuple[Layer, ...] = ("foundation", "infrastructure", "governance", "service", "edge")
NAME_RULE = "one or more letters, digits, '_', '-' or '.'"
_BACKOFF = Backoff()
_PROBE = Backoff(first=5.0, cap=300.0, free=0)


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """The rules that a child lives under. Times are in seconds.

    Parameters
    ----------
    name
        Its name among its siblings. Default: the class name in snake case.
    restart
        ``permanent``: restarted whenever it ends. ``transient``: only after a crash. ``temporary``: never.
    backoff
        Delays between restarts.
    mailbox
        How many messages may wait.
    overflow
        What a full mailbox does: let senders ``wait``, ``reject``, ``drop_oldest`` or ``drop_newest``. With
        ``latest_by_key`` a cast replaces, at any time, the one that waits under the same key (see `message`); what
        finds no room otherwise is rejected.
    stash
        How many messages its handlers may put aside.
    while_down, down_wait
        What callers meet between two incarnations: they ``wait``, at most `down_wait`, or are rejected at once.
    unwind_grace
        How long a cancelled handler may take to unwind before its cell is declared stuck.
    slow_after, on_slow
        After how many seconds a handler is told to be slow, by an event `HandlerSlow` with its stack, or a line in the
        log if nobody listens. With ``on_slow="kill"`` its incarnation is killed then. None: never.
    drain, shutdown
        At a stop: time to finish the mail; then, once cancelled, time to unwind before it is reported as unstopped.
    layer
        Where an `App` puts it; None lets the kind of child decide.
    register
        A name for the whole runtime, under which `Names.whereis` finds the actor; `NameTaken` where it is made if
        another one has it.
    intensity
        A budget of its own: how often it may be restarted. It is forgotten after healthy time, `backoff.reset_after`.
        None: its restarts are charged to its supervisor's budget.
    on_exhausted
        What a budget that is spent does to it: its own one, or, for a supervisor, that of its children's restarts.
        ``escalate``: whoever keeps the budget gives up. ``stop``: it is stopped for good. ``park``: it is down for
        longer, its callers get ``NotDelivered("parked", retry_after)`` at once, and now and then it is tried again.
    probe
        When a parked child is tried: the delays grow from one failed trial to the next. One that stays up for
        `probe.reset_after` is no longer parked.
    significant
        Whether its own end, not a stop from outside, counts for its supervisor's `auto_shutdown`.
    depends_on
        Names of siblings that it depends on, besides those whose handles it is given; for the strategy ``dependents``.
    """

    name: str | None = None
    restart: Restart = "permanent"
    backoff: Backoff = _BACKOFF
    mailbox: int = 1024
    overflow: Overflow = "wait"
    stash: int = 1024
    while_down: WhileDown = "wait"
    down_wait: float = 5.0
    unwind_grace: float = 5.0
    slow_after: float | None = None
    on_slow: OnSlow = "tell"
    drain: float = 5.0
    shutdown: float = 5.0
    layer: Layer | None = None
    register: str | None = None
    intensity: Intensity | None = None
    on_exhausted: OnExhausted = "escalate"
    probe: Backoff = _PROBE
    significant: bool = False
    depends_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self, "name", self.name is None or is_name(self.name), NAME_RULE)
        require_type(self, "backoff", Backoff)
        require_one_of(self, "restart", ("permanent", "transient", "temporary"))
        require_one_of(self, "overflow", ("wait", "reject", "drop_oldest", "drop_newest", "latest_by_key"))
        require_one_of(self, "while_down", ("wait", "reject"))
        require_one_of(self, "layer", (None, *LAYERS))
        require_number(self, "mailbox", at_least=1, whole=True)
        require_number(self, "stash", at_least=1, whole=True)
        require_label("register", "x" if self.register is None else self.register)
        for name in ("down_wait", "unwind_grace", "drain", "shutdown"):
            require_number(self, name)
        # A spec is made for each child of a crowd: what most children leave as it is costs a comparison.
        require_one_of(self, "on_slow", ("tell", "kill"))
        if self.slow_after is not None:
            require_number(self, "slow_after")
            require(self, "slow_after", self.slow_after > 0, "a number of seconds above 0, or None")
        if self.intensity is not None:
            require_type(self, "intensity", Intensity)
        if self.on_exhausted != "escalate":
            require_one_of(self, "on_exhausted", ("park", "stop", "escalate"))
        if self.probe is not _PROBE:
            require_type(self, "probe", Backoff)
            later = self.probe.first > 0 and not self.probe.free
            require(self, "probe", later, "with first above 0 and free=0: what is parked is not tried at once")
        if self.significant is not False:
            require_one_of(self, "significant", (True, False))
        if self.depends_on != ():
            require_texts(self, "depends_on", 'a tuple of names of siblings, as ("db",)')

    def check(self, where: str) -> None:
        """Raise `SpecInvalid` for what does not go together. `where` names the child."""
        if self.significant and self.restart == "permanent":
            raise SpecInvalid(f"{where}.significant", True, _SIGNIFICANT)
        if self.restart == "temporary":
            if self.intensity is not None:
                raise SpecInvalid(f"{where}.intensity", self.intensity, _NEVER_RESTARTED)
            if self.on_exhausted != "escalate":
                raise SpecInvalid(f"{where}.on_exhausted", self.on_exhausted, _NEVER_RESTARTED)


_SIGNIFICANT = 'a permanent child is restarted whenever it ends: use restart="transient" or "temporary"'
_NEVER_RESTARTED = 'a temporary child is never restarted: leave it out, or use restart="transient" or "permanent"'
DEFAULT_OPTIONS = ChildOptions()  # immutable, so all specs may have the same


class OptionValues(TypedDict, total=False):
    """The keywords of `Spec.options`: those of `ChildOptions`."""

    name: str | None
    restart: Restart
    backoff: Backoff
    mailbox: int
    overflow: Overflow
    stash: int
    while_down: WhileDown
    down_wait: float
    unwind_grace: float
    slow_after: float | None
    on_slow: OnSlow
    drain: float
    shutdown: float
    layer: Layer | None
    register: str | None
    intensity: Intensity | None
    on_exhausted: OnExhausted
    probe: Backoff
    significant: bool
    depends_on: tuple[str, ...]


@runtime_checkable
class Bindable(Protocol):
    """What a spec hands out before its node exists: a handle that is bound later."""

    @property
    def _node(self) -> Node | None: ...

    def _bind(self, node: Node) -> None: ...

    def _unbind(self) -> None: ...


class Configs(Protocol):
    """Where a spec that was given no config gets one."""

    env: Environment

    def config(self, section: str, kind: type[C]) -> C:
        """The config of a section."""
        ...

    def given(self, section: str, config: Config) -> None:
        """The code gives the config of a section."""


class Spec(ABC, Generic[H_co]):
    """How to make one node, and the handle that reaches it. Immutable; one spec may start many nodes."""

    @property
    @abstractmethod
    def child_options(self) -> ChildOptions:
        """The rules that the node will live under."""

    @abstractmethod
    def default_name(self) -> str:
        """The name used when the options name none."""

    @abstractmethod
    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        """Make the node. It does not run yet."""

    @abstractmethod
    def new_handle(self) -> H_co:
        """A handle that is not bound yet."""

    @abstractmethod
    def with_options(self, options: ChildOptions) -> Self:
        """The same with other options."""

    def dependencies(self) -> Iterator[object]:
        """The handles that the node is given: what must run before it."""
        return iter(())

    def configured(self, configs: Configs) -> Self:
        """The same with what was left open filled in."""
        return self

    def check(self) -> None:
        """Raise `SpecInvalid` for options that do not go together, with each other or with the kind of child."""
        self.child_options.check(name_of(self))

    @property
    def default_layer(self) -> Layer:
        """Where an `App` puts it unless its options say otherwise."""
        return "service"

    def options(self, **values: Unpack[OptionValues]) -> Self:
        """The same spec under other rules; see `ChildOptions` for the keywords."""
        known = ChildOptions.__dataclass_fields__
        for name, value in values.items():
            if name not in known:
                raise SpecInvalid(name, value, f"no such option; there are {', '.join(sorted(known))}")
        given = self.child_options
        # To make them anew costs half of a `replace`, which reads and writes all that are left as they are.
        return self.with_options(ChildOptions(**values) if given is DEFAULT_OPTIONS else replace(given, **values))


@dataclass(frozen=True)
class ActorSpec(Spec[Handle[A]], Generic[A]):
    """A child that is one actor."""

    cls: type[A]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rules: ChildOptions = DEFAULT_OPTIONS

    @property
    def child_options(self) -> ChildOptions:
        return self.rules

    def default_name(self) -> str:
        return snake_case(getattr(self.cls, "__name__", "actor"))

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        cell = intake_class(runtime, Cell)(runtime, parent, name, self.rules, self, self.cls)
        if self.rules.register is not None:
            runtime.names.register(self.rules.register, cell.handle())
        return cell

    def construct(self, context: ActorContext) -> A:
        """A fresh actor for one incarnation. Its context is there before `__init__` runs."""
        actor = self.cls.__new__(self.cls)
        actor.context = context
        actor.__init__(*self.args, **self.kwargs)  # type: ignore[misc]  # the constructor of a subclass
        interposer = context.runtime.interposer
        if interposer is not None:
            interposer.constructed(actor)
        if actor.__timed__ or self.rules.slow_after is not None:
            time_handlers(context._cell, actor, actor.__messages__)  # pyright: ignore[reportPrivateUsage]
        return actor

    def new_handle(self) -> Handle[A]:
        return Handle(self.rules.name or self.default_name())

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, rules=options)

    def dependencies(self) -> Iterator[object]:
        yield from self.args
        yield from self.kwargs.values()

    def check(self) -> None:
        if self.rules is not DEFAULT_OPTIONS:
            super().check()
            if self.rules.on_exhausted != "escalate" and self.rules.intensity is None:
                fix = "give it a budget of its own: intensity=creche.Intensity(restarts, window)"
                raise SpecInvalid(f"{name_of(self)}.on_exhausted", self.rules.on_exhausted, fix)


def child(cls: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> ActorSpec[A]:
    """The spec of an actor that is constructed as ``cls(*args, **kwargs)``, anew for each incarnation.

    Arguments are shared by all incarnations, so pass configuration and handles, not state. Add rules with
    ``.options(...)``.

    Raises
    ------
    SpecInvalid
        `cls` is no subclass of `Actor`, or its constructor does not take these arguments.
    """
    actor_class: object = cls
    if not (isinstance(actor_class, type) and issubclass(actor_class, Actor)):
        hint = "the class itself, not an actor that has been made: " if isinstance(actor_class, Actor) else ""
        raise SpecInvalid("child", cls, f"pass {hint}a subclass of creche.Actor, then its constructor's arguments")
    try:
        _signature_of(actor_class).bind(*args, **kwargs)
    except TypeError as error:
        raise SpecInvalid(f"child({actor_class.__name__}, ...)", (args, kwargs), str(error)) from None
    return ActorSpec(cast("type[A]", cls), args, dict(kwargs))


def _signature_of(cls: type[Actor]) -> inspect.Signature:
    """Kept in the class: to find it out costs more than all the rest of a spec."""
    signature: inspect.Signature | None = cls.__dict__.get("__creche_signature__")
    if signature is None:
        signature = inspect.signature(cls)
        type.__setattr__(cls, "__creche_signature__", signature)
    return signature


def require_spec(where: str, value: object) -> None:
    """Raise `SpecInvalid`, with what to write instead, unless `value` is a spec."""
    if isinstance(value, Spec):
        return
    kind = cast("type[object]", value) if isinstance(value, type) else type(value)
    examples = (
        f"creche.child({kind.__name__}, ...)" if issubclass(kind, Actor) else "creche.child(...), c.db.component()"
    )
    raise SpecInvalid(where, value, f"pass a spec: {examples}")


def name_of(spec: Spec[Any]) -> str:
    """The name of a child among its siblings."""
    return spec.child_options.name or spec.default_name()


def is_name(name: str) -> bool:
    """Whether a node may be named so: names are joined to paths by slashes."""
    return re.fullmatch(r"[\w.\-]+", name) is not None


def snake_case(name: str) -> str:
    """``HTTPServer`` -> ``http_server``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()

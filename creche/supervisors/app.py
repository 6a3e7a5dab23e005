"""The app: a whole service, declared; and the one place that touches signals, threads and the process's exit.

Theory of operation
-------------------
`use` collects specs and hands out their handles, unbound. A spec can only be given handles that `use` returned before,
so the order of use is a topological order of the dependencies. `open` puts each spec into the supervisor of its layer
(no lower than what it depends on), binds all handles, and opens the tree: layers start from the foundation to the edge,
and stop in reverse. Each restarts its members one for one, but for the foundation: what was made from another member of
it restarts with that (`dependents`).

The configuration is read at once, and each component gets its section when it is used: its handle may depend on it.
What is wrong there is gathered, and raised when the app is opened, before anything starts.

`run` adds what a process needs. The first SIGINT or SIGTERM cancels the body and stops the tree within `stop_within`.
From then on a watchdog thread and the handler of a second signal stand by: Trio cannot end a task that swallows its
cancellation or never checkpoints, so they dump all stacks and end the process. Both are plain threading and signal code
on purpose: they must work when Trio does not.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import trio

from ..runtime.causes import cause_tree
from ..runtime.checks import require_seconds
from ..runtime.config import Config
from ..runtime.configuration import read_configuration
from ..runtime.errors import ConfigInvalid, CrecheError, SpecInvalid
from ..runtime.intensity import Intensity
from ..runtime.node import still_there
from ..runtime.runtime import Runtime, opened, raise_single
from ..runtime.spec import LAYERS, Bindable, Environment, Layer, Spec, name_of, require_spec
from ..runtime.tree import TreeNode
from ..runtime.watchdog import Watchdog, require_watchdog
from .opening import STOP_WITHIN
from .spec import SupervisorSpec, supervisor
from .strategies import Strategy

C = TypeVar("C", bound=Config)
H = TypeVar("H")

EXIT_OK = 0
EXIT_FAILED = 1  # the tree gave up, or the body raised
EXIT_MISUSED = 2  # a spec or a configuration is wrong: a restart of the process will not help
EXIT_FORCED = 3  # it did not stop in time, or was told a second time

_WATCHDOG_GRACE = 2.0  # seconds beyond `stop_within` before the process is ended

ForceExit = Callable[..., None]
Main = Callable[["Running"], Awaitable[object]]


_WATCHDOG = Watchdog()


@dataclass(frozen=True)
class Running:
    """An app that runs, as its body sees it."""

    app: App
    runtime: Runtime

    def tree(self) -> TreeNode:
        """A picture of the supervision tree."""
        return self.runtime.tree()


@dataclass
class _Used:
    spec: Spec[Any]
    handle: Bindable
    layer: Layer
    name: str


class App:
    """A service made of components and actors.

    Parameters
    ----------
    name
        The service's name, as logs and metrics carry it.
    config
        The file with the components' configs, a section for each, called as the component. Default: the file that the
        variable ``CRECHE_CONFIG`` names, if any. Environment variables win over the file; see ``docs/config.md``. A
        component that the code gives a config must not have a section too.
    env
        ``"development"`` or ``"production"``: which defaults the components take. Default: the variable ``CRECHE_ENV``,
        else development.
    intensity
        Of the supervisors of the layers and of the root: how many restarts are too many.
    stop_within
        Seconds for the whole stop.
    seed
        For the runtime's randomness.
    watchdog
        How to notice that something does not come to a checkpoint, see `open_runtime`; None: not at all.

    Raises
    ------
    ConfigInvalid
        The environment is neither of the two, or the file cannot be read. What is wrong in its sections is found by
        `open`, `run` and `spec`, all of it before anything starts.
    """

    def __init__(
        self,
        name: str,
        *,
        config: str | os.PathLike[str] | None = None,
        env: Environment | None = None,
        intensity: Intensity | None = None,
        stop_within: float = STOP_WITHIN,
        seed: int | None = None,
        watchdog: Watchdog | None = _WATCHDOG,
    ) -> None:
        self.name = name
        self.configuration = read_configuration(config, env=env)
        self.env: Environment = self.configuration.env
        self._intensity = supervisor("root", intensity=intensity).intensity  # refused here if it is none
        require_seconds("stop_within", stop_within, or_never=True)
        self._stop_within = stop_within
        self._seed = seed
        require_watchdog(watchdog)
        self._watchdog = watchdog
        self._used: list[_Used] = []
        self._main: Main | None = None

    # --- declaring --------------------------------------------------------------------------------

    def use(self, spec: Spec[H]) -> H:
        """Make a component or an actor part of the app.

        Returns its handle, which raises `NotStarted` until the app runs. Raises `SpecInvalid`.
        """
        require_spec("use", spec)
        name = self._free_name(spec)
        spec = spec.options(name=name).configured(self.configuration)
        handle = spec.new_handle()
        self._used.append(_Used(spec, cast("Bindable", handle), self._layer_of(spec), name))
        return handle

    def section(self, name: str, *, type: type[C]) -> C:
        """A section of the configuration that is the service's own, not a component's.

        Raises `ConfigInvalid`.
        """
        return self.configuration.section(name, type=type)

    def override(self, handle: H, spec: Spec[H]) -> None:
        """Replace what `handle` reaches, before the app runs: a fake or another backend for a test.

        Name and layer stay.

        Raises `SpecInvalid` when the handle is not of this app, or when the new spec's handles are of another type.
        """
        require_spec("override", spec)
        used = self._find(handle)
        spec = spec.options(name=used.name).configured(self.configuration)
        made = spec.new_handle()
        if type(made) is not type(handle):
            raise SpecInvalid(
                "override", spec, f"its handle is a {type(made).__name__}, a {type(handle).__name__} is needed"
            )
        used.spec = spec

    def main(self, serve: Main) -> Main:
        """Decorator: the body of the app, for `run` and ``creche run``. The app stops when it returns."""
        self._main = serve
        return serve

    def spec(self) -> SupervisorSpec:
        """The whole tree as one spec. Raises `ConfigInvalid` and `SpecInvalid` for what is wrong in it."""
        self.configuration.check()
        layers = [self._layer_spec(layer) for layer in LAYERS]
        return supervisor("root", *(layer for layer in layers if layer.children), intensity=self._intensity)

    def _layer_spec(self, layer: Layer) -> SupervisorSpec:
        members = [used.spec for used in self._used if used.layer == layer]
        strategy: Strategy = "dependents" if layer == "foundation" else "one_for_one"
        return supervisor(layer, *members, strategy=strategy, intensity=self._intensity)

    def _layer_of(self, spec: Spec[Any]) -> Layer:
        """As declared, but never below what it depends on: that would start it too early and stop it too late."""
        own = LAYERS.index(spec.child_options.layer or spec.default_layer)
        for dependency in spec.dependencies():
            for used in self._used:
                if used.handle is dependency:
                    own = max(own, LAYERS.index(used.layer))
        return LAYERS[own]

    def _free_name(self, spec: Spec[Any]) -> str:
        taken = {used.name for used in self._used}
        name = name_of(spec)
        if name not in taken:
            return name
        if spec.child_options.name is not None:
            raise SpecInvalid("name", name, "the app uses that name already")
        return next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)

    def _find(self, handle: object) -> _Used:
        for used in self._used:
            if used.handle is handle:
                return used
        raise SpecInvalid("handle", handle, "not a handle that this app's use() returned")

    # --- running ----------------------------------------------------------------------------------

    def open(self) -> AbstractAsyncContextManager[Running]:
        """The app for the length of an ``async with`` block, inside somebody else's Trio run.

        For tests and for embedding.
        """
        return self._opened(self._make_runtime())

    def _make_runtime(self) -> Runtime:
        return Runtime(self.name, self.spec(), seed=self._seed, watchdog=self._watchdog)

    @asynccontextmanager
    async def _opened(self, runtime: Runtime) -> AsyncGenerator[Running]:
        for used in self._used:
            used.handle._bind(runtime.node_of(f"root/{used.layer}/{used.name}"))  # pyright: ignore[reportPrivateUsage]
        async with opened(runtime, self._stop_within):
            yield Running(self, runtime)

    def run(self, serve: Main | None = None) -> NoReturn:
        """Run the app as this process: until `serve` returns, a signal comes, or the tree gives up. Ends the process.

        Exit status: 0 stopped in order; 1 failed; 2 a spec or configuration is wrong; 3 had to be forced; 130 Ctrl-C
        before it ran. A `SystemExit` raised anywhere in the app is obeyed, as Python obeys it.
        """
        sys.exit(self.run_until_complete(serve))

    def run_until_complete(self, serve: Main | None = None) -> int:
        """As `run`, but returns the exit status."""
        try:
            trio.run(self._serve, serve or self._main or _until_stopped)
        except BaseException as error:
            return self._exit_status(error)
        return EXIT_OK

    async def _serve(self, serve: Main) -> None:
        runtime = self._make_runtime()
        with _stopping(self._stop_within, runtime) as stop:
            async with trio.open_nursery() as nursery:
                body = trio.CancelScope()
                nursery.start_soon(_obey_signals, body, stop)
                with body:  # also around the start, which may take long
                    async with self._opened(runtime) as running:
                        try:
                            await serve(running)
                        finally:
                            stop()
                nursery.cancel_scope.cancel("the app has stopped")

    def _exit_status(self, error: BaseException) -> int:
        try:
            raise_single(error)
        except SystemExit as exit_request:
            return _status_of(exit_request)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (SpecInvalid, ConfigInvalid) as misuse:
            print(f"{self.name}: {misuse}", file=sys.stderr)
            return EXIT_MISUSED
        except CrecheError as failure:
            print(cause_tree(failure), file=sys.stderr)
            return EXIT_FAILED
        except BaseException:
            traceback.print_exc()
            return EXIT_FAILED


async def _until_stopped(running: Running) -> None:
    await trio.sleep_forever()


def _status_of(exit_request: SystemExit) -> int:
    """What Python makes of it: None is 0, a text is told and is 1."""
    code = exit_request.code
    if code is None:
        return EXIT_OK
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return EXIT_FAILED


# --- signals and the watchdog ---------------------------------------


async def _obey_signals(body: trio.CancelScope, stop: Callable[[], ForceExit]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        number = await anext(signals)
        force_exit = stop()
        body.cancel(signal.Signals(number).name)
    # The receiver has restored the old handlers; from here on a second signal ends the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, force_exit)
    await trio.sleep_forever()


@contextmanager
def _stopping(stop_within: float, runtime: Runtime) -> Generator[Callable[[], ForceExit]]:
    """Gives a function that says "the stop has begun". If the block is not left in time, the process is ended."""
    done = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def force_exit(*_signal: object) -> None:
        _dump_and_exit(runtime)

    def watch() -> None:
        if not done.wait(stop_within + _WATCHDOG_GRACE):
            force_exit()

    watchdog = threading.Thread(target=watch, name="creche watchdog", daemon=True)

    def begin() -> ForceExit:
        if watchdog.ident is None:
            watchdog.start()
        return force_exit

    try:
        yield begin
    finally:
        done.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _dump_and_exit(runtime: Runtime) -> NoReturn:
    print("creche: did not stop in order; still there:", file=sys.stderr)
    try:
        # From another thread, or in the middle of anything: best effort, the process ends in any case.
        for text in still_there(runtime.root):
            print(text, file=sys.stderr)
    finally:
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_FORCED)

"""The message service, put together.

``creche run examples.message_service.app:app`` runs it in ./message-service-data.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import creche
from creche import components as c
from creche.components.mq.message import Message

from .api import build_api
from .counters import counter
from .delivery import RETRY, Handler, batch_deliverer, distributor
from .killer import Killer
from .model import BATCHES_GROUP, BATCHES_TOPIC, COUNTERS_GROUP, DISTRIBUTION_GROUP, TOPIC, metadata
from .repository import Repository
from .service import MessageService

# Under the killer everything crashes all the time; in a quiet service 3 in 5 seconds is a sign that something is wrong.
UNDER_FIRE = creche.Intensity(10_000, 60.0)
QUICK = creche.Backoff(first=0.005, cap=0.05, reset_after=0.25)


@dataclass(frozen=True)
class Settings:
    """Where the service keeps its data and listens.

    And, for chaos: how fast it is killed by a killer of its own (`kill_every` seconds, 0: never), and whether it is
    `under_fire` from elsewhere. `readers` is how many connections the database has for reading.
    """

    data: Path = Path("message-service-data")
    port: int = 8000
    kill_every: float = 0.0
    kill_seed: int = 0
    under_fire: bool = False
    log_level: c.clog.Level = "info"
    readers: int = 2


@dataclass(frozen=True)
class Service:
    """The app and the handles that its body and its tests use."""

    app: creche.App
    db: c.db.Db
    mq: c.mq.Mq
    cache: c.cache.Cache
    repository: Repository
    service: creche.Handle[MessageService]
    api: c.http.ASGIApp
    http: c.http.HttpServer


@dataclass(frozen=True)
class Parts:
    """What is the service's own. Tests put in parts with a fault in them."""

    service: type[MessageService] = MessageService
    counter: Callable[[c.db.Db], Callable[[Message], Awaitable[None]]] = counter
    distributor: Callable[[Repository, c.db.Db, c.mq.Mq], Handler] = distributor


def build(settings: Settings, parts: Parts | None = None) -> Service:
    """The whole service as a declaration: nothing runs yet."""
    own = Parts() if parts is None else parts
    settings.data.mkdir(parents=True, exist_ok=True)
    intensity = UNDER_FIRE if settings.kill_every or settings.under_fire else None
    app = creche.App("message-service", intensity=intensity, seed=settings.kill_seed)
    log = c.clog.Config(level=settings.log_level, format="json", output=str(settings.data / "service.log"))
    app.use(c.clog.component(log).options(backoff=QUICK))
    uid = app.use(c.uid.component(c.uid.Config(state_path=str(settings.data / "uid.db"))).options(backoff=QUICK))
    database = c.db.Config(path=str(settings.data / "service.db"), pool_size=settings.readers)
    db = app.use(c.db.component(database, metadata=metadata).options(backoff=QUICK))
    mq = app.use(c.mq.component(c.mq.Config(path=str(settings.data / "mq.db"))).options(backoff=QUICK))
    cache = app.use(c.cache.component().options(backoff=QUICK))
    repository = Repository(db, cache)
    app.use(c.db.relay(db, mq).options(backoff=QUICK))
    counters = c.mq.consumer(mq, COUNTERS_GROUP, [TOPIC], own.counter(db), concurrency=8)
    app.use(counters.options(name="counters", backoff=QUICK))
    distribution = c.mq.consumer(
        mq, DISTRIBUTION_GROUP, [TOPIC], own.distributor(repository, db, mq), concurrency=8, retry=RETRY
    )
    app.use(distribution.options(name="distribution", backoff=QUICK))
    batches = c.mq.consumer(mq, BATCHES_GROUP, [BATCHES_TOPIC], batch_deliverer(db), concurrency=2, retry=RETRY)
    app.use(batches.options(name="batches", backoff=QUICK))
    service = app.use(creche.child(own.service, db, uid, repository).options(backoff=QUICK))
    config = c.http.ServerConfig(port=settings.port)
    api = build_api(service, uid)
    http = app.use(c.http.http_server(config, api).options(backoff=QUICK))
    if settings.kill_every:
        app.use(creche.child(Killer, settings.kill_seed, settings.kill_every).options(layer="edge"))
    return Service(app, db, mq, cache, repository, service, api, http)


def settings_from_environment() -> Settings:
    """`MESSAGE_SERVICE_DATA`, `MESSAGE_SERVICE_PORT`."""
    return Settings(
        data=Path(os.environ.get("MESSAGE_SERVICE_DATA", "message-service-data")),
        port=int(os.environ.get("MESSAGE_SERVICE_PORT", "8000")),
    )


def __getattr__(name: str) -> creche.App:
    """`app` is built on demand, so that importing this module for `build` makes no folder."""
    if name == "app":
        return build(settings_from_environment()).app
    raise AttributeError(name)

"""The indexer, put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import creche
from creche import components as c
from examples.message_service.killer import Killer

from .index import TextIndex, metadata
from .indexer import Indexer, Reader, Settings

# Under the killer everything crashes all the time; in a quiet service 3 in 5 seconds is a sign that something is wrong.
UNDER_FIRE = creche.Intensity(10_000, 60.0)
QUICK = creche.Backoff(first=0.005, cap=0.05, reset_after=0.25)


@dataclass(frozen=True)
class Job:
    """What is to be indexed, and where to: ``data/index.db``. `kill_every` seconds something is killed; 0: nothing."""

    folder: Path
    data: Path
    kill_every: float = 0.0
    kill_seed: int = 0
    under_fire: bool = False  # killed from elsewhere

    @property
    def database(self) -> Path:
        """The index's file."""
        return self.data / "index.db"


@dataclass(frozen=True)
class Service:
    """The app and the handles that its body and its tests use."""

    app: creche.App
    settings: Settings
    index: TextIndex
    readers: creche.Pool[Reader]
    indexer: creche.Handle[Indexer]


def build(job: Job, reader: type[Reader] = Reader) -> Service:
    """The whole service as a declaration: nothing runs yet."""
    job.data.mkdir(parents=True, exist_ok=True)
    under_fire = UNDER_FIRE if job.kill_every or job.under_fire else None
    app = creche.App("worker-pool", intensity=under_fire, seed=job.kill_seed)
    settings = app.section("indexer", type=Settings)
    db = app.use(c.db.component(c.db.Config(path=str(job.database)), metadata=metadata).options(backoff=QUICK))
    # Whoever feeds the pool waits for each file, so it can never have too much to do.
    worker = (creche.process_child if settings.processes else creche.child)(reader).options(backoff=QUICK)
    readers = app.use(creche.pool("readers", worker, size=settings.workers, admission=None, intensity=under_fire))
    indexer = app.use(creche.child(Indexer, job.folder, settings, readers, db).options(backoff=QUICK))
    if job.kill_every:
        app.use(creche.child(Killer, job.kill_seed, job.kill_every).options(layer="edge"))
    return Service(app, settings, TextIndex(db), readers, indexer)

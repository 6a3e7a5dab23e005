"""``python -m examples.worker_pool [FOLDER] [--query WORDS] [--kill-every SECONDS]``

Indexes the text files of a folder, by default those of Python's standard library, and tells which have the words that
are asked for. A second run reads only what has changed. With ``--kill-every`` something is killed all the time, and an
audit compares the index with a plain pass; the exit status is 1 if they differ. Settings come from the file that
CRECHE_CONFIG names and from variables: CRECHE_INDEXER__WORKERS=8, CRECHE_INDEXER__PROCESSES=true.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from pathlib import Path

import trio

import creche

from .app import Job, Service, build
from .audit import audit
from .indexer import Progress, again


class Show:
    """Shows progress on one line, and what was found."""

    def __init__(self, service: Service, query: list[str]) -> None:
        self._service = service
        self._query = query
        self.restarts = 0
        self.progress = Progress()

    async def serve(self, running: creche.Running) -> None:
        """The body of the app: it ends when all is indexed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, running)
            self.progress = await again(running.runtime, self._service.indexer.ask.finished)
            nursery.cancel_scope.cancel()
        self._line(running)
        print(file=sys.stderr)
        for path, why in self.progress.failed.items():
            print(f"not indexed: {path}: {why}", file=sys.stderr)
        for hit in await again(running.runtime, lambda: self._service.index.search(self._query)):
            print(f"{hit.times:6} {hit.path}")

    async def _tell(self, running: creche.Running) -> None:
        while True:
            self.progress = await again(running.runtime, self._service.indexer.ask.progress)
            self._line(running)
            await trio.sleep(0.2)

    def _line(self, running: creche.Running) -> None:
        self.restarts = sum(node.restarts for node in running.tree())
        p = self.progress
        text = f"{p.kept + p.done} of {p.found} files, {p.kept} unchanged, {len(p.failed)} failed"
        print(f"\r{text}, restarts {self.restarts}   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Index, search and, under the killer, audit."""
    arguments = _arguments()
    folder = arguments.folder.expanduser().resolve()
    if not folder.is_dir():
        print(f"{folder} is no folder", file=sys.stderr)
        return 2
    job = Job(folder, arguments.data, arguments.kill_every, arguments.kill_seed)
    began = time.monotonic()
    try:
        service = build(job)
    except creche.ConfigInvalid as error:
        print(error, file=sys.stderr)
        return 2
    show = Show(service, arguments.query.split())
    status = service.app.run_until_complete(show.serve)
    if status != 0 or not (job.kill_every or arguments.audit):
        return status
    seconds = time.monotonic() - began
    found = audit(job.database, folder, service.settings.suffixes)
    print(
        f"files={found.files} words={found.words} missing={found.missing} twice={found.twice} wrong={found.wrong} "
        f"surplus={found.surplus} stray={found.stray} restarts={show.restarts} seconds={seconds:.1f}"
    )
    return 0 if found.holds else 1


def _arguments() -> argparse.Namespace:
    library = Path(sysconfig.get_path("stdlib"))
    parser = argparse.ArgumentParser(
        prog="python -m examples.worker_pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=library)
    parser.add_argument("--query", default="", metavar="WORDS")
    parser.add_argument("--data", type=Path, default=Path("worker-pool-data"), help="where the index is kept")
    parser.add_argument("--kill-every", type=float, default=0.0, metavar="SECONDS", help="on the average; 0: never")
    parser.add_argument("--kill-seed", type=int, default=0)
    parser.add_argument("--audit", action="store_true", help="compare the index with a plain pass")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

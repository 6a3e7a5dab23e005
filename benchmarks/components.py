"""All components, measured together: ``python -m benchmarks.components``.

The rows are those of `benchmarks.clog`, `uid`, `cache`, `db` and `mq`, which have the texts on what they compare, under
the component's name: ``db.read_raw``. What is interleaved are the probes of all of them. The cache's hit ratios are no
rows, and only its own program prints them; the whole service is in `benchmarks.service`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from . import _harness as harness
from . import cache, clog, db, mq, uid
from ._harness import Probe, Row

COMPONENTS: dict[str, tuple[Sequence[Probe], Sequence[Row]]] = {
    "clog": (clog.PROBES, clog.ROWS),
    "uid": (uid.PROBES, uid.ROWS),
    "cache": (cache.PROBES, cache.ROWS),
    "db": (db.probes(), db.ROWS),
    "mq": (mq.PROBES, mq.ROWS),
}
PROBES = [probe.of(component) for component, (probes, _) in COMPONENTS.items() for probe in probes]
ROWS = [row.of(component) for component, (_, rows) in COMPONENTS.items() for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("components", "the components", ROWS, partial(harness.evaluate, PROBES), arguments)


if __name__ == "__main__":
    main()

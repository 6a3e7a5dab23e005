"""All components, measured together: ``python -m benchmarks.components [--json] [--smoke] [--rounds N] [--only ROW]``.

The rows are those of `benchmarks.clog`, `uid`, `cache`, `db` and `mq`, which have the texts on what they compare, under
the component's name: ``db.read_raw``. What is interleaved are the probes of all of them. The cache's hit ratios are no
rows, and only its own program prints them; the whole service is in `benchmarks.service`. ``--only`` takes a part of a
row's name and may be given several times.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Sequence

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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.components", description="Measure the components.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--smoke", action="store_true", help="see that everything runs; the values mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    size = harness.SMOKE if options.smoke else harness.FULL
    if options.rounds:
        size = dataclasses.replace(size, rounds=options.rounds)
    rows = [row for row in ROWS if not options.only or any(part in row.name for part in options.only)]
    if not rows:
        parser.error(f"no such row; there are {', '.join(row.name for row in ROWS)}")
    facts = harness.machine()
    harness.note(facts)
    results = harness.evaluate(rows, harness.measure(harness.needed(PROBES, rows), size, random.Random()))
    if options.json:
        harness.print_json(results, size, facts)
    else:
        harness.print_table(results)


if __name__ == "__main__":
    main()

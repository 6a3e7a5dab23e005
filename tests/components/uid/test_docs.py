"""The example on the component's page runs as it stands."""

from __future__ import annotations

from pathlib import Path

from creche.components import uid
from tests.pages import programs_on, run_program


def test_the_example_of_the_page_makes_ids(tmp_path: Path) -> None:
    """A time and 256 numbers in ascending order; then a UUIDv7, without an app."""
    (source,) = programs_on("docs/components/uid.md")
    numbers, uuid = run_program(source, tmp_path, "-W", "error")
    made = [int(number) for number in numbers.partition("[")[2].rstrip("]").split(",")]
    assert (len(made), made) == (256, sorted(set(made)))
    assert uid.is_uuid7(uuid)

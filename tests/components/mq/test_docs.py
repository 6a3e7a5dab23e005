"""The examples on the component's page run as they stand."""

from __future__ import annotations

from pathlib import Path

from tests.pages import programs_on, run_program


def test_the_example_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    """Sent, acknowledged, handled."""
    source, _ = programs_on("docs/components/mq.md")
    lines = run_program(source, tmp_path, "-W", "error")
    assert sorted(lines) == ["offset 0", "to ada@example.org from notifications.email high"]
    assert (tmp_path / "data" / "mq.sqlite3").exists()


def test_the_handler_that_is_idempotent_counts_a_message_once(tmp_path: Path) -> None:
    """Although its sender has sent it twice."""
    _, source = programs_on("docs/components/mq.md")
    assert run_program(source, tmp_path, "-W", "error") == ["2 unread"]

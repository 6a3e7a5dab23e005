"""Found by reading the pages: a database that had just been restored could not be checked."""

from __future__ import annotations

from pathlib import Path

import creche
from creche.components import db as component


async def test_what_has_been_restored_can_be_checked_before_its_first_start(tmp_path: Path) -> None:
    """It has no identity yet; before, that was a TypeError."""
    async with creche.open_runtime("t") as runtime:
        db = await runtime.start(component.component(component.Config(path=str(tmp_path / "db"))))
        made = await db.backup(tmp_path / "copy")
    component.restore(made.path, tmp_path / "restored")
    found = component.check_backup(tmp_path / "restored")
    assert (found.database_id, found.migration, found.unsent) == ("", None, 0)

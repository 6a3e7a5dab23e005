"""The example on the component's page runs as it stands, and the page tells the defaults."""

from __future__ import annotations

from pathlib import Path

from creche.components import cache as c
from tests.pages import ROOT, programs_on, run_program

PAGE = "docs/components/cache.md"


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """A hit, a negative answer, a fresh value after an invalidation, and the rest."""
    source, _ = programs_on(PAGE)
    assert run_program(source, tmp_path, "-W", "error") == [
        "Profile(name='Ada', visits=0) None",
        "Profile(name='Ada', visits=1)",
        "hello None 1",
        "[('grace', 45.0), ('ada', 31.0)]",
    ]


def test_the_example_of_locks(tmp_path: Path) -> None:
    """The second to hold it finds the seat taken."""
    _, source = programs_on(PAGE)
    assert run_program(source, tmp_path, "-W", "error") == ["taken, sold out"]


def test_every_setting_is_on_the_page() -> None:
    """Those of the config and those of the policy."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for name in (*c.Config.__struct_fields__, *c.LoadPolicy.__struct_fields__):
        assert f"`{name}`" in text, name


def test_every_public_name_is_exported_and_errors_are_on_the_page() -> None:
    """What a program may catch or listen to, it can look up."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    public = {name for name, value in vars(c).items() if isinstance(value, type) and not name.startswith("_")}
    told = public - {"CacheActor", "ComponentSpec", "Config", "Statistics", "Callable", "partial"}
    missing = {name for name in told if name not in text}
    assert missing <= {"Cache", "Lock"}, missing

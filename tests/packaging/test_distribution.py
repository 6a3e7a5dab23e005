"""What a user installs: the wheel and the sdist, built from this tree and looked into."""

import configparser
import email.message
import email.parser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import creche

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("runtime", "supervisors", "components")
STEM = f"creche-{creche.__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from that sdist; nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def sdist(built: Path) -> dict[str, tarfile.TarInfo]:
    """The members of the sdist by their paths below its one top-level folder."""
    with tarfile.open(built / f"{STEM}.tar.gz") as archive:
        members = archive.getmembers()
    assert {PurePosixPath(member.name).parts[0] for member in members} == {STEM}
    return {member.name.removeprefix(f"{STEM}/"): member for member in members}


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    """The files of the wheel by path."""
    with zipfile.ZipFile(built / f"{STEM}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> email.message.Message:
    """The wheel's METADATA, as pip reads it."""
    return email.parser.BytesParser().parsebytes(wheel[f"{STEM}.dist-info/METADATA"])


def sources(folder: str) -> set[str]:
    """The Python files and type markers under a folder of this tree, as paths from its root."""
    found = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("py.typed")]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_wheel_claims_one_import_name(wheel: dict[str, bytes]) -> None:
    """Nothing lands in site-packages but creche and its metadata: no runtime, no tests."""
    assert {name.split("/")[0] for name in wheel} == {"creche", f"{STEM}.dist-info"}


def test_wheel_has_the_whole_package(wheel: dict[str, bytes]) -> None:
    """Every module is in the wheel, and the marker that makes its annotations count."""
    assert "creche/py.typed" in wheel
    assert sources("creche") <= wheel.keys()


def test_wheel_carries_the_license(wheel: dict[str, bytes]) -> None:
    """Whoever has the wheel has the license."""
    assert f"{STEM}.dist-info/licenses/LICENSE" in wheel


def test_version_comes_from_the_package(metadata: email.message.Message) -> None:
    """There is one version, written in creche/__init__.py."""
    assert metadata["Name"] == "creche"
    assert metadata["Version"] == creche.__version__


def test_core_stays_small(metadata: email.message.Message) -> None:
    """Without extras creche pulls in Trio, outcome and msgspec, nothing else."""
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.split("<")[0].split(">")[0] for line in required) == ["msgspec", "outcome", "trio"]


def test_wheel_installs_the_command(wheel: dict[str, bytes]) -> None:
    """`creche` on the shell is the main function of creche.runtime.cli."""
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel[f"{STEM}.dist-info/entry_points.txt"].decode())
    assert dict(scripts["console_scripts"]) == {"creche": "creche.runtime.cli:main"}


@pytest.mark.parametrize("folder", ["creche", "tests", "examples", "benchmarks"])
def test_sdist_has_every_source(sdist: dict[str, tarfile.TarInfo], folder: str) -> None:
    """Whoever packages creche from the sdist can run the same tests as we do."""
    assert sources(folder)
    assert sources(folder) <= sdist.keys()


@pytest.mark.parametrize("name", ["CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"])
def test_sdist_has_what_stands_at_the_root(sdist: dict[str, tarfile.TarInfo], name: str) -> None:
    """The files a reader looks for first are there."""
    assert name in sdist


def test_sdist_has_the_docs(sdist: dict[str, tarfile.TarInfo]) -> None:
    """The pages whose examples are tested travel with the tests."""
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages
    assert pages <= sdist.keys()


def test_sdist_holds_no_links(sdist: dict[str, tarfile.TarInfo]) -> None:
    """Only plain files: the links at the top of the checkout stay there."""
    assert [path for path, member in sdist.items() if not member.isfile()] == []
    assert {path.split("/")[0] for path in sdist}.isdisjoint(LINKS)


def test_links_of_a_checkout_lead_into_the_package() -> None:
    """A checkout shows the three houses at its top level, by relative links; an unpacked sdist has none."""
    in_checkout = (ROOT / ".git").exists()
    expected = {name: f"creche/{name}" for name in LINKS} if in_checkout else {}
    found = {name: os.readlink(ROOT / name) for name in LINKS if (ROOT / name).is_symlink()}
    assert found == expected
    assert all((ROOT / name).is_dir() for name in found)

"""The data folder is its owner's alone."""

import stat
from pathlib import Path

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.data_directory import LOCK_FILE, DataDirectory
from core.errors import ConfigurationError


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path / "a" / "var", SystemEntropy()).close()
    assert modes(tmp_path / "a" / "var") == {"var": 0o700, LOCK_FILE: 0o600}


def test_the_folder_of_an_earlier_version_is_closed_to_others_with_all_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    DataDirectory.open(folder, SystemEntropy()).close()
    (folder / "stream").mkdir()
    (folder / "stream" / "1.seg").write_text("a payload")
    (folder / "airloom.db").write_text("a password")
    (folder / "elsewhere").symlink_to(tmp_path)
    tmp_path.chmod(0o755)
    for path in (folder, folder / "stream"):
        path.chmod(0o755)
    for path in (folder / "stream" / "1.seg", folder / "airloom.db"):
        path.chmod(0o644)
    DataDirectory.open(folder, SystemEntropy()).close()
    assert modes(folder) | {"elsewhere": 0} == {
        "var": 0o700, LOCK_FILE: 0o600, "stream": 0o700, "1.seg": 0o600, "airloom.db": 0o600, "elsewhere": 0,
    }  # fmt: skip
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755, "the target of a link may belong to another user"


def test_an_empty_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var").chmod(0o1777)
    DataDirectory.open(tmp_path / "var", SystemEntropy()).close()
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700


@pytest.mark.parametrize(("mode", "with_lock"), [(0o755, False), (0o1777, True), (0o750, False)])
def test_a_folder_that_may_be_anothers_is_refused(tmp_path: Path, mode: int, *, with_lock: bool) -> None:
    (tmp_path / "other").write_text("")
    if with_lock:
        (tmp_path / LOCK_FILE).write_text("")
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"readable by others .mode {mode:o}.*run: chmod 700"):
        DataDirectory.open(tmp_path, SystemEntropy())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode

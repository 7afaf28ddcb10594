"""The guards of conftest.py do guard."""

from pathlib import Path

import pytest
from blockbuster import BlockingError

from core import config_file


async def test_a_blocking_call_of_shipped_code_in_a_loop_fails(tmp_path: Path) -> None:
    path = tmp_path / "airloom.toml"
    path.write_text("")  # the test's own call is left alone
    with pytest.raises(BlockingError):
        config_file.load(path, {})

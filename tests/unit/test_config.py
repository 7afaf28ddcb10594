"""Configuration: an unknown key or a bad value is one line that names the key and the way out."""

from pathlib import Path

import pytest

from core.config import Config, RadiusConfig, load
from core.errors import ConfigurationError


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text('[api]\nport = 8081\nhost = "127.0.0.2"\n')
    config = load(file, {"AIRLOOM_API__PORT": "8082", "AIRLOOM_GATEWAY__APNS": "one,two", "AIRLOOM_X": ""})
    assert (config.api.host, config.api.port) == ("127.0.0.2", 8082)
    assert config.gateway.apns == ("one", "two")


def test_nothing_configured_is_the_default() -> None:
    assert load(None, {}) == Config()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[api]\nprot = 1\n", "api.prot: unknown key; known here: host, port, sandbox"),
        ("[apis]\nport = 1\n", "apis: unknown key; known here: node, control, gateway"),
        ("[api]\nport = 99999\n", "api.port: Input should be less than or equal to 65535 (got 99999)"),
        ('[gateway]\naddress = "localhost"\n', "gateway.address: "),
        ("[api\n", "not TOML"),
        ("api = 3\n", "api: "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert told in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    ("interim_s", "intervals", "silent_s"),
    [(600, 3, 1_800), (60, 3, 1_800), (600, 4, 2_400), (3_600, 2, 7_200)],
)
def test_a_nas_may_be_silent_for_some_intervals_and_half_an_hour(
    interim_s: int, intervals: int, silent_s: int
) -> None:
    assert RadiusConfig(interim_s=interim_s, silent_intervals=intervals).silent_s == silent_s

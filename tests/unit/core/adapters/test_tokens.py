"""API tokens: whoever shares the secret of the nodes reads them, nobody else does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.secrets import tokens as module
from core.adapters.secrets.tokens import JwtTokens, key_of_file, key_of_secret
from core.domain.values import replace
from core.ports.secrets import TokenClaims

AT = datetime(2026, 11, 30, tzinfo=UTC)
CLAIMS = TokenClaims(
    token_id="token-1",
    operator_id="OP0000000001",
    api_key_sha256="0" * 64,
    issued=AT,
    expires=AT + timedelta(hours=1),
)


def test_nodes_of_one_secret_read_each_others_tokens() -> None:
    one, other = (JwtTokens(key=key_of_secret("the secret of all nodes")) for _ in range(2))
    assert other.read(one.sign(CLAIMS)) == CLAIMS
    assert JwtTokens(key=key_of_secret("another secret of nodes")).read(one.sign(CLAIMS)) is None


def test_the_key_of_a_file_is_made_once(tmp_path: Path) -> None:
    first = key_of_file(tmp_path / "token.key", SystemEntropy())
    assert key_of_file(tmp_path / "token.key", SystemEntropy()) == first
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600


def test_what_was_read_once_is_known_by_the_whole_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_READ_MAX", 2)
    tokens = JwtTokens(key=key_of_secret("the secret of all nodes"))
    signed = [tokens.sign(replace(CLAIMS, token_id=str(number))) for number in range(5)]
    for _ in range(2):
        for number, token in enumerate(signed):
            assert tokens.read(token) == replace(CLAIMS, token_id=str(number))
            assert tokens.read(f"{token[:-2]}{'AA' if token[-2:] != 'AA' else 'BB'}") is None
    assert len(tokens._read) <= 2

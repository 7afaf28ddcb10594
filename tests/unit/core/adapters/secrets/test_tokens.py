"""API tokens: only nodes that share the secret accept them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from core.adapters.clock import SystemEntropy
from core.adapters.secrets.tokens import JwtTokens, key_of_file, key_of_secret
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

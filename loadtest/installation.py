"""The operator of an Airloom, as a program: creates customers and SIMs by its control channel."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airloom.cli.node import ask, by_socket

BATCH_ROWS = 1_000
BATCH_S = 120.0
TEST_PLMN, TEST_ISSUER = "00101", "8981100"


@dataclass(frozen=True, slots=True)
class Installation:
    """A node's control channel: ``where`` as returned by ``airloom.cli.node.where_of``, and its secret."""

    where: str
    secret: str = field(default="", repr=False)

    @classmethod
    def in_folder(cls, data_dir: Path) -> "Installation":
        """Of a node that works in this folder on this host."""
        return cls(by_socket(data_dir))

    async def create_operator(self, email: str) -> tuple[str, str]:
        """A customer; its auth key's id and the key. Raises ``CliError``."""
        told = await self._ask("operators", {"email": email})
        return told["auth_key_id"], told["auth_key"]

    async def bring_in(self, operator_id: str, count: int) -> None:
        """So many SIMs of the test network that are the operator's, as fast as any. Raises ``CliError``."""
        while count > 0:
            rows = [
                {
                    "imsi": f"{TEST_PLMN}{secrets.randbelow(10**10):010d}",
                    "iccid": f"{TEST_ISSUER}{secrets.randbelow(10**12):012d}",
                    "speed_class": "s1.8xfast",
                    "operator_id": operator_id,
                }
                for _ in range(min(count, BATCH_ROWS))
            ]
            count -= (await self._ask("sims/import", {"rows": rows}))["imported"]

    async def _ask(self, what: str, body: object) -> Any:
        return await ask("POST", f"{self.where}/control/{what}", self.secret, body=body, within_s=BATCH_S)

"""A customer's program: Airloom through its REST API alone."""

import asyncio
from types import TracebackType
from typing import Any

import aiohttp

PAGE = 1_000
SHARE = "X-Soracom-Ratelimit-Remaining"
"""Without it a 429 is for wrong credentials, or too many calls at once."""
MAY_ATTACH = ("ready", "active", "standby")


class ApiError(Exception):
    """The API said no; ``status`` and ``code`` are its own."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.code = body.get("code", "") if isinstance(body, dict) else ""


class ApiClient:
    """One operator's session with the API; a context manager around its HTTP connection pool."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.operator_id = ""
        self.auth_key_id = ""
        self.auth_key = ""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        self._headers: dict[str, str] = {}

    async def __aenter__(self) -> "ApiClient":
        """Nothing is sent yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the connections go."""
        await self._http.close()

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request under /v1, again when its operator has its share of calls again (429); raises
        ``ApiError`` for anything but 2xx.
        """
        while True:
            async with self._http.request(
                method, f"{self.endpoint}/v1{path}", json=body, params=query or None, headers=self._headers
            ) as response:
                is_json = response.content_type == "application/json"
                answer = await (response.json() if is_json else response.text())
                if response.status < 300:
                    return answer
                if response.status != 429 or SHARE not in response.headers:
                    raise ApiError(response.status, answer)
                wait_s = float(response.headers["Retry-After"])
            await asyncio.sleep(wait_s)

    async def fetch(self, url: str) -> bytes:
        """The content behind a link that the API gave."""
        async with self._http.get(url, headers=self._headers) as response:
            response.raise_for_status()
            return await response.read()

    async def sign_up(self, email: str, password: str) -> None:
        """Make an operator through the sandbox and an auth key for it."""
        body = {"email": email, "password": password, "authKeyId": "keyId-any", "authKey": "secret-any"}
        self._use(await self.call("POST", "/sandbox/init", body))
        key = await self.call("POST", f"/operators/{self.operator_id}/auth_keys")
        self.auth_key_id, self.auth_key = key["authKeyId"], key["authKey"]

    async def sign_in(self, auth_key_id: str, auth_key: str) -> None:
        """Authenticate with an auth key."""
        self.auth_key_id, self.auth_key = auth_key_id, auth_key
        self._use(await self.call("POST", "/auth", {"authKeyId": auth_key_id, "authKey": auth_key}))

    async def new_sim(self) -> dict[str, Any]:
        """Make a SIM in stock, register it and let it be as fast as any; the contract's Sim."""
        made = await self.call("POST", "/sandbox/subscribers/create", {"subscription": "plan01s"})
        secret = {"registrationSecret": made["registrationSecret"]}
        subscriber = await self.call("POST", f"/subscribers/{made['imsi']}/register", secret)
        fastest = {"speedClass": "s1.8xfast"}
        path = f"/sims/{subscriber['simId']}/update_speed_class"
        sim: dict[str, Any] = await self.call("POST", path, fastest)
        return sim

    async def idle_sims(self, count: int) -> list[dict[str, Any]]:
        """At most so many of its SIMs that may attach and are not online."""
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while len(found) < count:
            page = await self.call("GET", "/sims", limit=PAGE, **after)
            found += [sim for sim in page if sim["status"] in MAY_ATTACH and not _is_online(sim)]
            if len(page) < PAGE:
                break
            after = {"last_evaluated_key": page[-1]["simId"]}
        return found[:count]

    async def month_csv(self, month: str) -> bytes:
        """The bill export of a month (yyyymm)."""
        link = await self.call("POST", f"/bills/{month}/export", export_mode="sync")
        return await self.fetch(link["url"])

    def _use(self, auth: dict[str, str]) -> None:
        self.operator_id = auth["operatorId"]
        self._headers = {"X-Soracom-API-Key": auth["apiKey"], "X-Soracom-Token": auth["token"]}


def _is_online(sim: dict[str, Any]) -> bool:
    return bool((sim.get("sessionStatus") or {}).get("online"))

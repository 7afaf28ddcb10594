"""Third-party RADIUS clients with a served Airloom: radclient as the NAS, FreeRADIUS as the receiver of
Disconnect-Requests.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loadtest.api_client import ApiClient
from loadtest.outcome import quantity_of_csv, total_of_stats
from loadtest.serving import Served, free_gateway_address, free_tcp_port, radius_clients

pytestmark = [pytest.mark.e2e, pytest.mark.program("radclient")]

SECRET = "a secret shared by two"
NAS = "127.0.3.9"
FREERADIUS_CONF = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = {folder}
run_dir = {folder}
pidfile = {folder}/pid
security {{
    allow_vulnerable_openssl = yes
}}
client airloom {{
    ipaddr = 127.0.0.0/8
    secret = "{secret}"
}}
modules {{
    always ok {{
        rcode = ok
    }}
}}
server coa {{
    listen {{
        type = coa
        ipaddr = {nas}
        port = 3799
    }}
    recv-coa {{
        ok
    }}
    send-coa {{
        ok
    }}
}}
"""


@dataclass(slots=True)
class Laboratory:
    """A served node, its customer and one SIM."""

    served: Served
    customer: ApiClient
    sim_id: str
    imsi: str

    async def radclient(self, command: str, attributes: dict[str, str], secret: str = SECRET) -> str:
        """What radclient prints; ``command`` is auth, acct or status."""
        port = 1813 if command == "acct" else 1812
        lines = {"Packet-Src-IP-Address": NAS, "NAS-IP-Address": NAS, **attributes}
        client = await asyncio.create_subprocess_exec(
            "radclient", "-x", "-r", "1", "-t", "2", f"{self.served.gateway_address}:{port}", command, secret,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        text = "\n".join(f"{name} = {value}" for name, value in lines.items())
        printed, _ = await client.communicate(text.encode())
        return printed.decode()

    async def access(self, **attributes: str) -> str:
        """An Access-Request as a GGSN of others sends it."""
        common = {"3GPP-IMSI": f'"{self.imsi}"', "Called-Station-Id": "soracom.io"}
        given = {name.replace("_", "-"): value for name, value in attributes.items()}
        return await self.radclient("auth", {**common, "Message-Authenticator": "0x00", **given})

    async def account(self, status: str, class_: str, **attributes: str) -> str:
        """An Accounting-Request of the session."""
        given = {name.replace("_", "-"): value for name, value in attributes.items()}
        named = {
            "User-Name": f'"{self.imsi}"', "Acct-Session-Id": '"A1"', "Acct-Status-Type": status,
            "Called-Station-Id": "soracom.io", "Class": class_, **given,
        }  # fmt: skip
        return await self.radclient("acct", named)


@asynccontextmanager
async def laboratory(folder: Path) -> AsyncIterator[Laboratory]:
    served = Served(
        folder / "var",
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 0),
        environment={
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_RADIUS__CLIENTS": radius_clients(SECRET),
        },
    )
    await served.start()
    try:
        async with ApiClient(served.endpoint) as customer:
            await customer.sign_up("nas@example.com", "Aa1-radius-laboratory")
            sim = await customer.new_sim()
            imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
            yield Laboratory(served, customer, sim["simId"], imsi)
    finally:
        await served.stop()


def value_of(printed: str, attribute: str) -> str:
    """From the answer, which radclient prints after what it sent."""
    received = printed[printed.index("Received") :]
    return next(line.split(" = ", 1)[1] for line in received.splitlines() if f"\t{attribute} = " in line)


async def test_radclient_from_access_to_the_bill(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        accepted = await lab.access()
        assert "Received Access-Accept" in accepted, accepted
        class_, address = value_of(accepted, "Class"), value_of(accepted, "Framed-IP-Address")
        assert value_of(accepted, "Acct-Interim-Interval") == "600"
        started = await lab.account("Start", class_, Framed_IP_Address=address)
        assert "Received Accounting-Response" in started, started
        sim = await lab.customer.call("GET", f"/sims/{lab.sim_id}")
        assert (sim["sessionStatus"]["online"], sim["sessionStatus"]["ueIpAddress"]) == (True, address)
        counted = {"Acct_Input_Octets": "1000", "Acct_Output_Octets": "7", "Acct_Output_Gigawords": "1"}
        await lab.account("Interim-Update", class_, **counted)
        await lab.served.kill()
        await lab.served.start()
        for _ in range(2):  # a Stop that is sent twice, under two identifiers
            stopped = await lab.account("Stop", class_, **{**counted, "Acct_Input_Octets": "1500"})
            assert "Received Accounting-Response" in stopped, stopped
        expected = {"upload": 1_500, "download": 2**32 + 7}
        assert await total_of_stats(lab.customer, lab.sim_id) == expected
        csv = await lab.customer.month_csv(datetime.now(UTC).strftime("%Y%m"))
        assert quantity_of_csv(csv) == sum(expected.values())
        sim = await lab.customer.call("GET", f"/sims/{lab.sim_id}")
        assert not (sim.get("sessionStatus") or {}).get("online")


async def test_radclient_is_rejected_ignored_and_told_that_we_live(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        status = {"Message-Authenticator": "0x00"}
        assert "Received Access-Accept" in await lab.radclient("status", status)
        unknown = await lab.access(**{"3GPP_IMSI": '"440109999999999"'})
        assert value_of(unknown, "Reply-Message") == '"unknown SIM"'
        await lab.customer.call("POST", f"/sims/{lab.sim_id}/suspend")
        assert value_of(await lab.access(), "Reply-Message") == '"SIM suspended"'
        wrong = await lab.radclient(
            "auth", {"User-Name": lab.imsi, "Message-Authenticator": "0x00"}, secret="not it"
        )
        assert "No reply from server" in wrong
        assert "No reply from server" in await lab.radclient("auth", {"User-Name": lab.imsi})
        metrics = await asyncio.to_thread(lab.served.metrics)
        dropped = {
            reason: metrics[f'airloom_datagrams_dropped_total{{interface="radius",reason="{reason}"}}']
            for reason in ("not_authentic", "no_message_authenticator")
        }
        assert dropped == {"not_authentic": 1.0, "no_message_authenticator": 1.0}


async def test_radclient_shows_the_password_of_its_group(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        group = await lab.customer.call("POST", "/groups", body={"tags": {}})
        secret = {"key": "authentication", "value": {"username": "meter", "password": "open sesame"}}
        path = f"/groups/{group['groupId']}/configuration/SoracomAir"
        await lab.customer.call("PUT", path, body=[secret])
        await lab.customer.call("POST", f"/sims/{lab.sim_id}/set_group", body={"groupId": group["groupId"]})
        for kind in ("User_Password", "CHAP_Password"):
            good = await lab.access(User_Name="meter", **{kind: '"open sesame"'})
            assert "Received Access-Accept" in good, good
            bad = await lab.access(User_Name="meter", **{kind: '"open says me"'})
            assert value_of(bad, "Reply-Message") == '"wrong user name or password"'
        assert "Received Access-Reject" in await lab.access(
            User_Name="another", User_Password='"open sesame"'
        )


@pytest.mark.program("freeradius")
async def test_freeradius_is_told_to_disconnect_within_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "freeradius"
    folder.mkdir()
    text = FREERADIUS_CONF.format(folder=folder, secret=SECRET, nas=NAS)
    (folder / "radiusd.conf").write_text(text)
    program = shutil.which("freeradius") or "freeradius"
    receiver = await asyncio.create_subprocess_exec(
        program, "-X", "-d", str(folder), "-n", "radiusd",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        await printed_until(receiver, "Ready to process requests")
        async with laboratory(tmp_path) as lab:
            accepted = await lab.access()
            class_, address = value_of(accepted, "Class"), value_of(accepted, "Framed-IP-Address")
            await lab.account("Start", class_, Framed_IP_Address=address)
            began = time.monotonic()
            await lab.customer.call("POST", f"/sims/{lab.sim_id}/suspend")
            printed = await printed_until(receiver, "Sent Disconnect-ACK")
            assert time.monotonic() - began < 1.0
            assert 'Acct-Session-Id = "A1"' in printed, printed
            assert f"Framed-IP-Address = {address}" in printed
            await asyncio.sleep(0.2)
            metrics: dict[str, Any] = await asyncio.to_thread(lab.served.metrics)
            assert metrics['airloom_disconnects_total{outcome="ended"}'] == 1.0
            await lab.account("Stop", class_, Acct_Input_Octets="11", Acct_Output_Octets="22")
            assert await total_of_stats(lab.customer, lab.sim_id) == {"upload": 11, "download": 22}
    finally:
        receiver.terminate()
        await receiver.wait()


async def printed_until(process: asyncio.subprocess.Process, wanted: str) -> str:
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(10):
        while wanted not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
    return printed

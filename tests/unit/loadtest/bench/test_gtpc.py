"""The benchmark of sessions where it cannot be run, and the messages that it writes and reads itself."""

import json
import os
from datetime import UTC, datetime

import pytest
from pycrate_mobile.TS29274_GTPC import parse_GTPC
from scapy.contrib.gtp import GTPCreatePDPContextRequest, GTPDeletePDPContextRequest, GTPHeader

from core.config import GatewayConfig
from loadtest.bench import gtpc, gtpc_load
from loadtest.bench.gtpc_store import session_of


def test_without_namespaces_the_rows_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    result = gtpc.bench(json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["ok"] is None
    for row in result["rows"]:
        assert (row["ours"], row["peer"], row["ok"]) == (None, None, None)
        assert "needs root" in row["why"]


def test_requests_of_version_1_are_such_to_an_independent_decoder() -> None:
    create = GTPHeader(gtpc_load.create_v1("001010000000007", 7, 9, "10.99.0.100"))
    elements = {type(each).__name__: each for each in create[GTPCreatePDPContextRequest].IE_list}
    assert elements["IE_IMSI"].imsi == b"001010000000007"
    assert elements["IE_AccessPointName"].APN == b"internet"
    assert elements["IE_TEICP"].TEICI == 8
    assert not any(name.startswith("IE_NotImplemented") for name in elements)
    delete = GTPHeader(gtpc_load.delete_v1(42, 10))
    assert (delete.teid, delete.seq) == (42, 10)
    assert [each.ietype for each in delete[GTPDeletePDPContextRequest].IE_list] == [19, 20]


def test_requests_of_version_2_are_such_to_an_independent_decoder() -> None:
    for request in (
        gtpc_load.create_v2("001010000000007", 7, 9, "10.99.0.100"),
        gtpc_load.delete_v2(42, 10),
    ):
        message, error = parse_GTPC(request)
        assert error == 0
        assert message.to_bytes() == request


def test_seeded_sessions_share_nothing_and_have_addresses_that_are_allocated() -> None:
    sessions = [session_of(number, datetime.now(UTC), "10.99.0.100") for number in range(3_000)]
    for values in (
        {session.session_id for session in sessions},
        {session.ue_address for session in sessions},
        {session.imsi for session in sessions},
    ):
        assert len(values) == 3_000
    assert len({teid for session in sessions for teid in session.teids}) == 6_000
    assert all(session.ue_address in GatewayConfig().ue_pool for session in sessions)

"""The user plane benchmark where it cannot be run, and the one message that it writes itself."""

import json
import os
import shutil
from ipaddress import IPv4Address

import pytest
from scapy.contrib.gtp import GTPCreatePDPContextRequest, GTPHeader

from loadtest.bench import userplane
from loadtest.bench.userplane_children import _create_pdp_context, _read_answer


def test_without_the_peer_the_rows_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "osmo-ggsn" else name)
    result = userplane.bench(json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["ok"] is None
    for row in result["rows"]:
        assert (row["ours"], row["peer"], row["ok"]) == (None, None, None)
        assert "osmo-ggsn is not installed" in row["why"]


def test_the_create_request_is_one_to_an_independent_decoder() -> None:
    message = GTPHeader(_create_pdp_context(7, "10.99.0.100"))
    request = message[GTPCreatePDPContextRequest]
    elements = {type(element).__name__: element for element in request.IE_list}
    assert elements["IE_IMSI"].imsi == b"001010000000007"
    assert elements["IE_AccessPointName"].APN == b"internet"
    assert elements["IE_TEIDI"].TEIDI == 8
    assert not any(name.startswith("IE_NotImplemented") for name in elements)


def test_teid_and_address_are_read_from_an_answer() -> None:
    answer = b"\x32\x11\x00\x00" + bytes(8) + b"\x01\x80" + b"\x08\xff" + b"\x10\x00\x00\x00\x2a"
    answer += b"\x11\x00\x00\x00\x01" + b"\x7f\x00\x00\x00\x01"
    answer += b"\x80\x00\x06\xf1\x21" + IPv4Address("10.45.0.2").packed
    assert _read_answer(answer) == (42, "10.45.0.2")

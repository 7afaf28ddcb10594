"""What load tests agree on before anything is bound: addresses and ports, each for one process."""

import subprocess
import sys

import pytest

from loadtest.serving import free_gateway_address, free_tcp_port

NETWORK, HOST, PORT = "127.0.98", "127.0.98.1", 18_080
ASK = (
    "from loadtest.serving import free_gateway_address, free_tcp_port;"
    f"print(free_gateway_address('{NETWORK}'), free_tcp_port('{HOST}', {PORT}))"
)


def test_what_one_process_reserved_another_does_not_get() -> None:
    own = (free_gateway_address(NETWORK), free_tcp_port(HOST, PORT))
    assert own == (free_gateway_address(NETWORK), free_tcp_port(HOST, PORT)), "as often as it asks"
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    address, port = asked.stdout.split()
    assert address != own[0]
    assert int(port) != own[1]


@pytest.mark.parametrize("port", [0, 18_081])
def test_a_port_is_one_that_can_be_bound(port: int) -> None:
    assert free_tcp_port(HOST, port) > 0

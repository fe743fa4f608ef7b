"""Which worker gets a client: always the same for an address, and all of them get some."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from service_manager_kit import activated
from serving import PATIENCE, Program, command, environment
from worker_kit import Parent, greeting, workers_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF")

# Each worker says which process it is, in its greeting.
APPLICATION = """
import os
from fastsmtp import SMTPServer


def make(**options):
    async def on_data(stream, session):
        await stream.read()

    name = f"p{os.getpid()}.example"
    return SMTPServer(name=name, auth_optional=True, on_data=on_data, **options)


def one_at_a_time():
    return make(max_clients_per_host=1)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APPLICATION)
    return tmp_path


V4 = [f"127.0.{net}.{host}" for net in range(4) for host in range(1, 17)]


def test_connections_of_an_address_go_to_one_worker_and_addresses_to_all(directory: Path) -> None:
    with Parent(None, "app:make", workers=3, cwd=directory) as parent:
        served = workers_of(("127.0.0.1", parent.ports[0]), V4)
        assert len(Counter(served.values())) == 3
        assert min(Counter(served.values()).values()) >= len(V4) // 3 // 3
        assert parent.stop() == 0


def test_an_address_has_one_worker_on_all_ports(directory: Path) -> None:
    listen = ("127.0.0.1:0", "127.1.2.3:0")
    with Parent(None, "app:make", workers=3, cwd=directory, listen=listen) as parent:
        places = zip(("127.0.0.1", "127.1.2.3"), parent.ports, strict=True)
        first, second = (workers_of(place, V4[:20]) for place in places)
        assert first == second
        assert parent.stop() == 0


def test_a_limit_per_client_holds_over_all_workers(directory: Path) -> None:
    with Parent(None, "app:one_at_a_time", workers=3, cwd=directory) as parent:
        address = ("127.0.0.1", parent.ports[0])
        with contextlib.ExitStack() as files:
            for source in V4[:20]:
                client = files.enter_context(socket.create_connection(address, 60, (source, 0)))
                assert client.recv(4) == b"220 "
            for source in V4[:20]:
                with socket.create_connection(address, 60, (source, 0)) as second:
                    assert second.recv(4) == b"421 "
        assert parent.stop() == 0


def test_without_steering_an_address_is_served_by_several_workers(directory: Path) -> None:
    with Parent(
        None, "app:make", "--no-steer-clients", workers=3, cwd=directory
    ) as parent:  # fmt: skip
        address = ("127.0.0.1", parent.ports[0])
        assert len({greeting(address, "127.0.0.1") for _ in range(60)}) == 3
        assert parent.stop() == 0


def test_more_workers_get_their_share(directory: Path) -> None:
    with Parent(None, "app:make", workers=1, cwd=directory) as parent:
        address = ("127.0.0.1", parent.ports[0])
        assert len(set(workers_of(address, V4).values())) == 1
        parent.process.send_signal(signal.SIGTTIN)
        parent.out.wait("SIGTTIN: 2 workers")
        assert len(set(workers_of(address, V4).values())) == 2
        assert parent.stop() == 0


def test_ipv4_on_a_socket_of_both_families_is_steered_as_on_one_of_its_own(
    directory: Path,
) -> None:
    try:
        both = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=True
        )
    except OSError:
        pytest.skip("this machine has no IPv6")
    with both, socket.create_server(("127.0.0.1", 0), reuse_port=True) as one:
        port, plain = both.getsockname()[1], one.getsockname()[1]
        arguments = ["app:make", f"--listen=127.0.0.1:{plain}", f"--listen=[::]:{port}"]
        arguments += ["--workers=3", "--stay-root"]
        descriptors = [both.fileno(), one.fileno()]
        line = activated(command(*arguments), descriptors)
        with Program(line, pass_fds=descriptors, cwd=directory) as program:
            program.out.wait("3 workers are ready")
            served = workers_of(("127.0.0.1", plain), V4[:20])
            assert served == workers_of(("127.0.0.1", port), V4[:20])
            assert len(set(served.values())) == 3
            assert program.stop() == 0


# IPv6, in a network of its own, whose loopback interface has several addresses.

NETS = [f"fd00:0:0:{net:x}::1" for net in range(1, 33)]
HOSTS_OF_ONE = [f"fd00:0:0:1::{host:x}" for host in range(2, 10)]

IN_A_NETWORK = """
import json, sys
from pathlib import Path
from worker_kit import Parent, workers_of

options = {"workers": 3, "cwd": Path.cwd(), "listen": ("[::]:0",)}
with Parent(None, "app:make", "--stay-root", **options) as parent:
    print(json.dumps(workers_of(("fd00:0:0:1::1", parent.ports[0]), sys.argv[1:])))
    assert parent.stop() == 0
"""


def test_connections_of_a_network_of_ipv6_go_to_one_worker(directory: Path) -> None:
    addresses = "".join(f"ip addr add {each}/128 dev lo;" for each in NETS + HOSTS_OF_ONE)
    script = f'ip link set lo up; {addresses} exec "$@"'
    unshared = ["unshare", "--net", "sh", "-ec", script, "sh"]
    probe = subprocess.run([*unshared, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no network namespace with IPv6: {probe.stderr.strip()}")
    support = str(Path(__file__).parents[1] / "support")
    path = os.pathsep.join([support, environment()["PYTHONPATH"]])
    done = subprocess.run(
        [*unshared, sys.executable, "-c", IN_A_NETWORK, *NETS, *HOSTS_OF_ONE],
        cwd=directory, env=environment(PYTHONPATH=path), capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    assert {served[each] for each in HOSTS_OF_ONE} == {served[NETS[0]]}
    assert len({served[each] for each in NETS}) == 3

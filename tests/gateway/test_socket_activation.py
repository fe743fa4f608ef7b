"""Sockets that a service manager has opened are served in place of our own (sd_listen_fds)."""

from __future__ import annotations

import os
import shutil
import smtplib
import socket
import ssl
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from service_manager_kit import activated
from serving import PATIENCE, Program, bodies, command, environment, environment_of_others

from fastsmtp.gateway.activation import Activation
from fastsmtp.gateway.config import Kind, Listener, parse_listener
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.inherited import Inherited, address_of, inherited

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
ACTIVATE = shutil.which("systemd-socket-activate", path=f"{os.environ.get('PATH')}:/usr/bin")
APPLICATION = """
async def on_data(stream, session):
    await stream.read()
    return "taken"
"""


def listening(host: str = "127.0.0.1", **options: Any) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, **options)


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def serving(
    arguments: list[str], sockets: list[socket.socket], names: str = "-", **options: Any
) -> Program:
    """`fastsmtp serve`, started with these sockets."""
    descriptors = [sock.fileno() for sock in sockets]
    line = activated(command(*arguments), descriptors, names)
    return Program(line, pass_fds=descriptors, **options)


def refusal(arguments: list[str], descriptors: list[int], names: str = "-") -> str:
    """The line of error of a start with these descriptors, whose status is 1."""
    done = subprocess.run(
        activated(command(*arguments), descriptors, names),
        pass_fds=descriptors,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def send(port: int, client: Any = smtplib.SMTP) -> None:
    with client("127.0.0.1", port, "c.example", timeout=PATIENCE) as connection:
        connection.sendmail("a@x.example", ["b@y.example"], MESSAGE)


# --- by systemd ---


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
@pytest.mark.parametrize("by_name", [True, False])
def test_systemd_starts_a_gateway_for_the_first_client(maildir: Path, by_name: bool) -> None:
    assert ACTIVATE is not None
    with listening() as free:
        place = f"127.0.0.1:{port_of(free)}"
    given = ["--fdname=smtp"] if by_name else []
    arguments = [] if by_name else [f"--listen={place}"]
    variables = [f"--setenv={name}={value}" for name, value in environment().items()]
    line = [ACTIVATE, f"--listen={place}", *given, *variables]
    line += command(*arguments, f"--maildir={maildir}")
    with Program(line, env=environment_of_others()) as program:
        program.err.wait("Listening on")
        send(port_of_place(place))
        assert program.out.wait("listening on (.*)$")[1] == place
        assert program.stop() == 0
    assert bodies(maildir) == [MESSAGE]


def port_of_place(place: str) -> int:
    return int(place.rpartition(":")[2])


# --- by hand ---


def test_a_client_of_before_the_start_is_served(maildir: Path) -> None:
    with listening() as sock:
        early = socket.create_connection(sock.getsockname(), PATIENCE)
        with serving([f"--maildir={maildir}"], [sock], "smtp") as program:
            assert early.recv(4) == b"220 "
            early.close()
            assert program.stop() == 0


def test_the_name_of_a_socket_is_its_protocol(maildir: Path, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with ExitStack() as stack:
        smtp, smtps, lmtp = (stack.enter_context(listening()) for _ in range(3))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(path))
        unix.listen()
        sockets = [smtp, smtps, lmtp, unix]
        arguments = [f"--maildir={maildir}"]
        program = stack.enter_context(serving(arguments, sockets, "smtp:smtps:lmtp:lmtp"))
        program.out.wait("delivering")
        send(port_of(smtp))
        context = ssl._create_unverified_context()
        with smtplib.SMTP_SSL("127.0.0.1", port_of(smtps), context=context) as client:
            assert client.ehlo()[0] == 250
        send(port_of(lmtp), smtplib.LMTP)
        with smtplib.LMTP(str(path), local_hostname="c.example") as client:
            assert client.ehlo()[0] == 250
        assert program.stop() == 0
        # It is the service manager's: the next start needs it.
        assert path.exists()
    assert len(bodies(maildir)) == 2


def test_an_address_is_enough_where_there_is_a_listener_for_it(maildir: Path) -> None:
    with listening() as lmtp, listening() as smtp:
        arguments = [
            *(f"--maildir={maildir}", f"--listen=127.0.0.1:{port_of(smtp)}"),
            f"--listen=lmtp:127.0.0.1:{port_of(lmtp)}",
        ]
        with serving(arguments, [lmtp, smtp], "web.socket:web.socket") as program:
            program.out.wait("delivering")
            send(port_of(smtp))
            send(port_of(lmtp), smtplib.LMTP)


def test_sockets_for_another_process_are_none_of_ours(maildir: Path) -> None:
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    line = command("--listen=127.0.0.1:0", f"--maildir={maildir}")
    with Program(line, env=environment(**variables)) as program:
        send(int(program.out.wait(r"listening on 127\.0\.0\.1:(\d+)$")[1]))


@pytest.mark.parametrize("options, name", [("", "smtp"), ("options = {'lmtp': True}", "lmtp")])
def test_an_application_serves_a_socket_by_its_name(
    tmp_path: Path, options: str, name: str
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION + options)
    client = smtplib.LMTP if name == "lmtp" else smtplib.SMTP
    with listening() as sock, serving(["app"], [sock], name, cwd=tmp_path) as program:
        prefix = "lmtp:" if name == "lmtp" else ""
        assert program.out.wait("listening on (.*)$")[1] == f"{prefix}127.0.0.1:{port_of(sock)}"
        send(port_of(sock), client)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_serve_a_socket_by_its_name(maildir: Path, workers: int) -> None:
    with listening() as sock:
        arguments = [f"--maildir={maildir}", f"--workers={workers}"]
        with serving(arguments, [sock], "smtp") as program:
            program.out.wait("ready")
            send(port_of(sock))


# --- mistakes ---


def test_a_socket_that_nobody_has_named_is_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        line = refusal([f"--maildir={maildir}"], [sock.fileno()], "mail.socket")
        place = f"127.0.0.1:{port_of(sock)}"
        assert f"there is an open socket for {place} (LISTEN_FDS), which no --listen names" in line
        assert "and its name is mail.socket: FileDescriptorName= takes smtp, smtps," in line
        line = refusal([f"--maildir={maildir}"], [sock.fileno()])
        assert "and it has no name" in line


def test_a_listener_without_a_socket_is_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        arguments = [f"--maildir={maildir}", "--listen=127.0.0.1:2500"]
        line = refusal(arguments, [sock.fileno()], "smtp")
    assert "none for --listen 127.0.0.1:2500: add it to the socket unit" in line


def test_a_name_that_contradicts_the_listener_is_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        place = f"127.0.0.1:{port_of(sock)}"
        arguments = [f"--maildir={maildir}", f"--listen={place}"]
        line = refusal(arguments, [sock.fileno()], "smtps")
    assert f"two protocols: by --listen {place} and by its name, smtps" in line


def test_a_socket_for_submission_without_users_is_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        line = refusal([f"--maildir={maildir}"], [sock.fileno()], "submission")
    assert "submission needs --users" in line


def test_more_names_than_sockets_are_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        line = refusal([f"--maildir={maildir}"], [sock.fileno()], "smtp:smtp")
    assert "LISTEN_FDNAMES has 2 names, and LISTEN_FDS is 1" in line


def test_the_connection_of_a_client_is_an_error_that_names_the_setting(maildir: Path) -> None:
    with listening() as sock, socket.create_connection(sock.getsockname()) as client:
        line = refusal([f"--maildir={maildir}"], [client.fileno()], "smtp")
    assert "the socket unit needs Accept=no" in line


def test_a_socket_for_datagrams_is_an_error_that_names_the_setting(maildir: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        line = refusal([f"--maildir={maildir}"], [sock.fileno()], "smtp")
    assert "ListenStream=" in line


def test_a_file_is_an_error_of_one_line(maildir: Path) -> None:
    with open(os.devnull) as file:
        line = refusal([f"--maildir={maildir}"], [file.fileno()], "smtp")
    assert "LISTEN_FDS: descriptor 3 is not a socket" in line


def test_one_socket_with_two_names_is_an_error_of_one_line(maildir: Path) -> None:
    with listening() as sock:
        line = refusal([f"--maildir={maildir}"], [sock.fileno()] * 2, "smtp:lmtp")
    assert "have two names, smtp and lmtp: give them one" in line


def test_a_parent_that_has_ended_before_it_was_replaced_needs_no_word() -> None:
    """Otherwise the program that takes over from it would end too, at its first ready moment."""
    end, its_end = socket.socketpair()
    end.close()
    found = Inherited(ready=its_end.detach())
    found.tell_ready()
    assert found.ready == -1


@pytest.mark.parametrize("number", ["", "x", "-1", "٣", "99999999999"])
def test_a_wrong_number_of_sockets_is_an_error(number: str) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number}
    with pytest.raises(StartError, match="LISTEN_FDS"):
        inherited(environ=environ)
    assert environ == {}


# --- which listener a socket is for, in this process ---


def activation(*sockets: socket.socket, name: str = "", **more: Any) -> Activation:
    """What a start with these sockets finds, all with the same name."""
    found = Inherited(**more)
    for sock in sockets:
        address = address_of(sock)
        found.sockets.setdefault(address, []).append(sock)
        found.names[address] = name
    return Activation(found)


@pytest.mark.parametrize("hosts", [("0.0.0.0", "::"), ("::", "0.0.0.0"), ("0.0.0.0",), ("::",)])
def test_one_socket_for_both_versions_of_ip_serves_both_listeners(hosts: tuple[str, ...]) -> None:
    with listening("::", dualstack_ipv6=True) as sock:
        port = port_of(sock)
        listeners = [Listener(host=host, port=port) for host in hosts]
        served = activation(sock, name="fastsmtp.socket").served(listeners)
    assert served == (Listener(host="::", port=port),)


def test_a_socket_for_ipv6_only_is_not_that_of_ipv4() -> None:
    with listening("::") as sock:
        listener = Listener(host="0.0.0.0", port=port_of(sock))
        with pytest.raises(StartError, match=r"none for --listen 0\.0\.0\.0"):
            activation(sock, name="smtp").served([listener])


def test_one_socket_for_two_protocols_is_an_error() -> None:
    with listening("::", dualstack_ipv6=True) as sock:
        listeners = [
            Listener(host="0.0.0.0", port=port_of(sock)),
            Listener(host="::", port=port_of(sock), kind=Kind.SMTPS),
        ]
        with pytest.raises(StartError, match="two protocols"):
            activation(sock).served(listeners)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_listener_is_found_by_the_name_of_its_host(host: str) -> None:
    with listening() as sock:
        listener = Listener(host=host, port=port_of(sock))
        assert activation(sock).served([listener]) == (listener,)


def test_the_path_of_a_listener_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "x.sock"))
        listener = parse_listener("lmtp:./x.sock")
        assert activation(sock).served([listener]) == (listener,)


def test_a_socket_in_the_abstract_namespace_is_served_by_its_name() -> None:
    path = f"\0fastsmtp-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        served = activation(sock, name="lmtp").served([])
    assert served == (Listener(path=path, kind=Kind.LMTP),)


def test_lmtp_on_the_port_of_smtp_is_refused() -> None:
    class On25(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.1", 25

    with On25() as sock, pytest.raises(StartError, match="RFC 2033"):
        activation(sock, name="lmtp").served([])


@pytest.mark.parametrize("is_start", [True, False])
def test_a_listener_that_is_new_since_the_start_is_bound(is_start: bool) -> None:
    with listening() as sock:
        old, new = (Listener(host="127.0.0.1", port=port_of(sock) + more) for more in (0, 1))
        found = activation(sock, is_handed_over=is_start)
        assert found.served([old, new], is_start=is_start) == (old, new)


def test_without_sockets_all_listeners_are_bound() -> None:
    listeners = [Listener(host="127.0.0.1")] * 2
    assert activation().served(listeners) == tuple(listeners)

"""`fastsmtp config` and `fastsmtp check`: what would be served, and whether it would start."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from serving import PATIENCE, Gateway, command, environment
from tls_kit import pair
from worker_kit import Parent

from fastsmtp.gateway.checking import findings
from fastsmtp.gateway.commands import serve
from fastsmtp.gateway.config import SCHEMA, example, load
from fastsmtp.gateway.privileges import Account
from fastsmtp.gateway.settings_command import arguments_of

pytest_plugins = ["gateway_fixtures"]


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, name=name),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**variables),
    )


def checked(*arguments: str) -> tuple[int, list[str]]:
    """The status and the lines of `fastsmtp check`, without the line about the file."""
    ended = run("check", *arguments)
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0] == "fastsmtp: ok: configuration from /dev/null"
    assert all(re.match("fastsmtp: (ok|failed): ", line) for line in lines)
    return ended.returncode, [line.removeprefix("fastsmtp: ") for line in lines[1:]]


# --- config ---


def test_config_prints_every_key_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "a\tb.toml"
    file.write_text("size = 1\n")
    ended = run("config", f"--config={file}", "-v", FASTSMTP_MAX_ERRORS="7")
    assert (ended.returncode, ended.stderr) == (0, "")
    values = tomllib.loads(ended.stdout)
    assert list(values) == list(SCHEMA)
    assert (values["size"], values["verbose"], values["max_errors"]) == (1, True, 7)
    lines = ended.stdout.splitlines()
    assert f"size = 1  # {tmp_path}/a\\x09b.toml line 1" in lines
    assert "verbose = true  # flag --verbose" in lines
    assert "max_errors = 7  # environment FASTSMTP_MAX_ERRORS" in lines


def test_config_prints_the_example_without_reading_anything() -> None:
    ended = run("config", "--example", FASTSMTP_SIZE="wrong")
    assert (ended.returncode, ended.stdout) == (0, example())


@pytest.mark.parametrize("name", ["config", "check"])
def test_a_wrong_configuration_is_one_line_and_status_2(name: str) -> None:
    ended = run(name, "--size=lots")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("fastsmtp: error: --size: it takes octets such as")
    assert ended.stderr.count("\n") == 1


def test_config_prints_paths_that_are_not_text() -> None:
    ended = run("config", os.fsdecode(b"--maildir=/m/\xff"))
    assert ended.returncode == 0
    assert 'maildir = "/m/\\udcff"  # flag --maildir' in ended.stdout


@pytest.mark.parametrize("name", ["serve", "config", "check"])
def test_help_has_every_flag_in_its_group(name: str) -> None:
    ended = run(name, "--help", COLUMNS="200")
    assert ended.returncode == 0
    groups = re.split(r"^(\S.*):$", ended.stdout, flags=re.MULTILINE)
    texts = dict(zip(groups[1::2], groups[2::2], strict=True))
    assert set(texts) == {"Options", *(row.group for row in SCHEMA.values() if row.flag)}
    for row in SCHEMA.values():
        if row.flag:
            assert re.search(rf"^  (-v, )?{row.flag}\b", texts[row.group], re.MULTILINE), row.key
    assert "--key-password" not in ended.stdout
    assert "--config FILE" in texts["Options"]


def test_a_restarted_application_gets_all_arguments_but_reload() -> None:
    given = ["app:server", "--config=a b.toml", "--listen=25", "--listen", "26", "-v", "--reload"]
    context = serve.make_context("serve", [*given, "--no-stay-root", "--umask="])
    assert arguments_of(context, without="reload") == [
        *["app:server", "--config=a b.toml", "--listen=25", "--listen=26"],
        *["--umask=", "--no-stay-root", "--verbose"],
    ]


# --- check ---


def test_check_of_a_good_configuration_is_a_line_for_each_item_and_makes_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "mx.pem").write_bytes(pair().cert + pair().key)
    users = tmp_path / "users"
    users.touch(0o600)
    status, lines = checked(
        *("--listen=127.0.0.1:0", "--listen=smtps://[::1]:0", f"--listen=lmtp:{tmp_path}/l.sock"),
        *(f"--cert={tmp_path}/mx.pem", f"--users={users}"),
        *(f"--maildir={tmp_path}/m", f"--spool={tmp_path}/s"),
    )
    assert status == 0
    certificate, no_users, warning, *others = lines
    assert certificate.startswith(f"ok: certificate from {tmp_path}/mx.pem, good until ")
    assert no_users == f"ok: 0 users in {users}"
    assert warning == f"ok: warning: {users} has no users: nobody can log in"
    assert others == [
        "ok: 127.0.0.1:0 is free",
        "ok: smtps://[::1]:0 is free",
        f"ok: lmtp:{tmp_path}/l.sock is free",
        f"ok: Maildir {tmp_path}/m will be made",
        f"ok: spool {tmp_path}/s will be made",
        f"ok: delivering to {tmp_path}/m by way of the spool {tmp_path}/s;"
        " 250 means: on this disk (disk)",
    ]
    assert sorted(os.listdir(tmp_path)) == ["mx.pem", "users"]


def test_check_names_everything_that_is_wrong_and_has_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mx.pem").write_bytes(pair().cert)
    status, lines = checked(
        *("--listen=smtps://nohost.invalid", f"--listen=smtp:{tmp_path}/file"),
        *(f"--listen=smtp:{tmp_path}/no/x.sock", "--listen=203.0.113.1:0"),
        *(f"--cert={tmp_path}/mx.pem", f"--users={tmp_path}/none"),
        *(f"--maildir={tmp_path}/file/m", f"--spool={tmp_path}"),
    )
    assert status == 1
    assert [line for line in lines if not line.startswith("failed: ")] == []
    text = "\n".join(lines)
    for part in (
        f"--cert {tmp_path}/mx.pem holds no private key",
        f"{tmp_path}/none cannot be read: No such file",
        "smtps://nohost.invalid:465: ",
        f"smtp:{tmp_path}/file: a file is there that is not a socket",
        f"smtp:{tmp_path}/no/x.sock: cannot be made in {tmp_path}/no",
        "203.0.113.1:0: Cannot assign requested address",
        f"Maildir {tmp_path}/file/m: {tmp_path}/file is not a directory",
        f"{tmp_path} is not a spool",
    ):
        assert part in text


def test_an_address_that_another_program_has_is_a_failure_with_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            status, lines = checked(f"--listen={host}:{port}")
            assert status == 1
            (line,) = [line for line in lines if "in use" in line]
            assert line.startswith(f"failed: {host}:{port} is in use by ")
            assert line.endswith(f", process {os.getpid()}")
    assert checked(f"--listen=127.0.0.1:{port}")[0] == 0


def test_the_address_of_the_admin_listener_is_checked_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        status, lines = checked("--listen=0", f"--admin={place}")
    assert status == 1
    assert any(line.startswith(f"failed: admin {place} is in use by ") for line in lines)
    status, lines = checked("--listen=0", f"--admin=unix:{tmp_path}/a.sock")
    assert status == 0
    assert f"ok: admin unix:{tmp_path}/a.sock is free" in lines


def test_a_port_that_ipv6_holds_for_ipv4_too_is_in_use() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        status, lines = checked(f"--listen=127.0.0.1:{other.getsockname()[1]}")
    assert status == 1
    assert any(f", process {os.getpid()}" in line for line in lines)


def test_check_beside_a_running_server_is_fine_and_does_not_disturb_it(
    maildir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "smtp.sock"
    listen = ("127.0.0.1:0", f"smtp:{path}")
    with Gateway(maildir, f"--spool={tmp_path}/spool", "-v", listen=listen) as gateway:
        (port,) = gateway.ports
        arguments = (f"--listen=127.0.0.1:{port}", f"--listen=smtp:{path}")
        with gateway.client() as client:
            status, lines = checked(*arguments, f"--maildir={maildir}", f"--spool={tmp_path}/spool")
            assert client.sendmail("a@x.example", ["b@y.example"], b"Subject: x\r\n\r\n") == {}
        assert status == 0
        holder = f"in use by fastsmtp, process {gateway.process.pid}"
        assert lines[1:] == [
            f"ok: 127.0.0.1:{port} is {holder}",
            f"ok: smtp:{path} is {holder}",
            f"ok: Maildir {maildir}",
            f"ok: spool {tmp_path}/spool",
            f"ok: delivering to {maildir} by way of the spool {tmp_path}/spool;"
            " 250 means: on this disk (disk)",
        ]
        assert gateway.stop() == 0
        # The one client is ours: the check has not connected.
        assert len([line for line in gateway.out.all if " connected id=" in line]) == 1
    assert checked(*arguments)[0] == 0


def about_spools(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"(ok|failed): (spool|others can write)", line)]


def test_check_looks_at_the_spool_of_each_worker(maildir: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with Parent(maildir, f"--spool={spool}", workers=2) as parent:
        assert parent.stop() == 0
    arguments = ("--listen=127.0.0.1:0", f"--maildir={maildir}", f"--spool={spool}")
    status, lines = checked(*arguments)
    both = [f"ok: spool {spool}", f"ok: spool {spool}/workers/2"]
    assert (status, about_spools(lines)) == (0, both)
    (spool / "workers" / "2").chmod(0o777)
    status, lines = checked(*arguments)
    assert status == 1
    reason = f"others can write to the spool {spool}/workers/2: chmod 700 it"
    assert about_spools(lines) == [both[0], f"failed: {reason}"]


def test_an_empty_directory_for_a_spool_is_fine(maildir: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    arguments = ("--listen=127.0.0.1:0", f"--maildir={maildir}", f"--spool={tmp_path}/spool")
    status, lines = checked(*arguments)
    assert (status, about_spools(lines)) == (0, [f"ok: spool {tmp_path}/spool"])


def test_the_socket_of_a_dead_process_is_replaced_and_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    status, lines = checked(f"--listen=smtp:{path}")
    assert status == 0
    assert f"ok: smtp:{path}: the socket of a dead process, which is replaced" in lines
    assert path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directories_without_permission_are_failures(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    status, lines = checked(f"--maildir={closed}/m", f"--spool={closed}/s", "--listen=0")
    assert status == 1
    assert [line for line in lines if "no permission to write" in line] == lines[-2:]


def test_a_user_that_does_not_exist_is_a_failure() -> None:
    status, lines = checked("--user=no-such-user", "--listen=0")
    assert status == 1
    assert lines[-1].startswith("failed: --user: there is no user no-such-user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_directories_are_checked_with_the_rights_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def become(account: Account) -> None:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)

    # The tests may stand where only root can read, which the real one refuses.
    monkeypatch.setattr("fastsmtp.gateway.checking.drop", become)
    flags = {"user": "65534", "group": "65534", "maildir": str(tmp_path / "m"), "listen": ["0"]}
    config = load(flags, {}, os.devnull).config
    tmp_path.chmod(0o700)
    *_, directory = findings(config)
    assert not directory.is_fine
    assert f"Maildir {tmp_path}/m: " in directory.text
    assert os.geteuid() == 0
    *_, own, _ = findings(load({**flags, "user": "", "group": ""}, {}, os.devnull).config)
    assert own == (True, f"Maildir {tmp_path}/m will be made")


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_an_address_that_root_would_serve_without_saying_so_is_a_failure() -> None:
    status, lines = checked("--listen=0.0.0.0:0")
    assert status == 1
    assert any(line.startswith("failed: 0.0.0.0:0: root would serve") for line in lines)
    assert checked("--listen=0.0.0.0:0", "--stay-root")[0] == 0


def test_another_project_of_our_name_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "fastsmtp-2.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fastsmtp\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(findings(load({}, {}, os.devnull).config))
    assert found[0].text.startswith("fastsmtp 2.0, another project, is installed here too")
    assert not found[0].is_fine


def test_check_imports_an_application_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from fastsmtp import SMTPServer\nserver = SMTPServer()\nraise_ = 1\n"
    )

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, name="check"),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(),
            cwd=tmp_path,
        )

    good = check("app:server", "--listen=127.0.0.1:0")
    assert good.returncode == 0
    assert "fastsmtp: ok: application app:server" in good.stdout.splitlines()
    assert "Maildir" not in good.stdout
    bad = check("app:nobody")
    assert bad.returncode == 1
    assert "failed: app has no attribute nobody; there is app:server" in bad.stdout


# --- their output ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["config", "--example"], ["postgres", "schema"]])
def test_output_that_cannot_be_written_is_an_error(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            command(*arguments[1:], name=arguments[0]),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            env=environment(),
        )
    assert ended.returncode == 1
    assert ended.stderr == "fastsmtp: error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("closed", [(1, 2), (2,)])
def test_workers_start_without_the_standard_files(maildir: Path, closed: tuple[int, ...]) -> None:
    arguments = [f"--maildir={maildir}", "--listen=127.0.0.1:0", "--workers=1"]
    log = maildir.parent / "log"
    process = subprocess.Popen(
        command(*arguments, f"--log-file={log}"),
        preexec_fn=lambda: [os.close(number) for number in closed],
        env=environment(),
    )
    try:
        end = time.monotonic() + PATIENCE
        while not (log.exists() and "worker is ready" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_a_password_on_a_closed_standard_input_is_missing(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(str(tmp_path / "users"), "anne", "--stdin", name="passwd"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        preexec_fn=lambda: os.close(0),
    )
    assert (ended.returncode, ended.stderr) == (1, "fastsmtp: error: a password is needed\n")

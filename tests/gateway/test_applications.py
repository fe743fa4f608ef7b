"""`fastsmtp serve module:attribute`: applications in each form, their faults, and reloading."""

from __future__ import annotations

import os
import re
import smtplib
import socket
import sys
from pathlib import Path

import pytest
from serving import PATIENCE, Program, command, run_to_end

HOOKS = """
async def on_rcpt_to(address, session):
    if address.local_part == "nobody":
        raise SMTPError("not here", 550)

async def on_data(stream, session):
    stream.discard()
    return "taken by " + NAME
"""
HEAD = f"""
import contextlib
from fastsmtp import SMTPError, SMTPServer
NAME = __name__
{HOOKS}
"""
LIFESPAN = """
@contextlib.asynccontextmanager
async def lifespan(server):
    print("start", flush=True)
    yield
    print("clean up", flush=True)
"""
SERVER = f"""{HEAD}{LIFESPAN}
server = SMTPServer(auth_optional=True, on_rcpt_to=on_rcpt_to, on_data=on_data, lifespan=lifespan)
"""
MAKE = """
server = SMTPServer(auth_optional=True, on_rcpt_to=on_rcpt_to, on_data=on_data)
def make():
    return server
"""
CLASS = """
class Mine(SMTPServer):
    def __init__(self):
        super().__init__(auth_optional=True)
    async def on_rcpt_to(self, address, session):
        await on_rcpt_to(address, session)
    async def on_data(self, stream, session):
        return await on_data(stream, session)
class Box:
    made = Mine()
"""
# Name of the application -> its module.
FORMS = {
    "app:server": SERVER,
    "app:make": HEAD + MAKE,
    "app:Mine": HEAD + CLASS,
    "app:Box.made": HEAD + CLASS,
    "app": HEAD + LIFESPAN,
    "pack.app:server": SERVER,
}


def write(directory: Path, name: str, text: str) -> None:
    path = directory.joinpath(*name.partition(":")[0].split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


class Application(Program):
    """A running `fastsmtp serve` of an application in `directory`, on a free port."""

    def __init__(self, directory: Path, *arguments: str, program: list[str] | None = None) -> None:
        super().__init__(program or command(*arguments), cwd=directory)

    def port(self) -> int:
        """Wait until it listens, and return the port."""
        return int(self.out.wait(r"listening on \S*:(\d+)$")[1])


def taken_by(port: int) -> str:
    """Send one message to a recipient that is there and one that is not; what took it."""
    with smtplib.SMTP("127.0.0.1", port, "c.example", timeout=PATIENCE) as client:
        client.ehlo()
        client.mail("a@x.example")
        assert client.rcpt("nobody@y.example")[0] == 550
        assert client.rcpt("b@y.example")[0] == 250
        code, text = client.data(b"Subject: x\r\n\r\n")
        assert code == 250
    found = re.search(r"taken by (\S+)", text.decode())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", FORMS)
def test_an_application_is_served_in_each_form(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, FORMS[name])
    with Application(tmp_path, name, "--listen=127.0.0.1:0") as application:
        assert taken_by(application.port()) == name.partition(":")[0]
        assert application.stop() == 0
        assert application.out.all[-1] == "fastsmtp: ended"
        if LIFESPAN in FORMS[name]:
            assert application.out.all[0] == "start"
            assert "clean up" in application.out.all
        assert application.errors() == []


def test_the_options_of_a_module_are_those_of_its_server(tmp_path: Path) -> None:
    write(tmp_path, "app", HEAD + "options = {'lmtp': True, 'name': 'mx.test'}\n")
    with Application(tmp_path, "app", f"--listen=lmtp:{tmp_path}/s") as application:
        application.out.wait("listening on lmtp:")
        with smtplib.LMTP(f"{tmp_path}/s") as client:
            assert b"mx.test" in client.docmd("LHLO c.example")[1]
        assert application.stop() == 0


def test_several_addresses_are_listened_on(tmp_path: Path) -> None:
    write(tmp_path, "app", SERVER)
    where = ("--listen=127.0.0.1:0", "--listen=smtps://127.0.0.1:0")
    with Application(tmp_path, "app:server", *where) as application:
        assert taken_by(application.port()) == "app"
        application.out.wait(r"listening on smtps://127\.0\.0\.1:\d+$")
        assert application.stop() == 0


def test_the_installed_command_finds_modules_of_the_working_directory(tmp_path: Path) -> None:
    write(tmp_path, "app", SERVER)
    text = "import sys; sys.path.pop(0); from fastsmtp.gateway.cli import main; sys.exit(main())"
    program = [sys.executable, "-c", text, "serve", "app:server", "--listen=127.0.0.1:0"]
    with Application(tmp_path, program=program) as application:
        assert taken_by(application.port()) == "app"
        assert application.stop() == 0


# What is wrong with an application, by the name that is given -> exit status, what is said.
FAULTS = {
    "none:server": (2, "there is no module none"),
    "app.none:server": (2, "there is no module app.none"),
    "app:serve": (2, "app has no attribute serve; there is app:server"),
    "app": (2, "there is app:server: name it"),
    "app.py": (2, "name its module, as in app:server"),
    "./app.py": (2, "name its module, as in app:server"),
    "app:": (2, "give module:attribute"),
    ":server": (2, "give module:attribute"),
    "app:a:b": (2, "give module:attribute"),
    "app server": (2, "give module:attribute"),
    "app:number": (2, "app:number is of type int"),
    "app:nothing": (2, "app:nothing() returns a NoneType"),
    "app:later": (2, "app:later() returns a coroutine"),
    "app:fails": (1, "app:fails() has failed: OSError: no file (APP/app.py, line"),
    "empty": (2, "empty has no hooks, such as on_data, and no server"),
    "raises": (1, "raises cannot be imported: ZeroDivisionError: division by zero (APP/raises.py"),
    "imports": (1, "imports cannot be imported: ModuleNotFoundError: No module named 'gone'"),
    "syntax": (1, "syntax cannot be imported: SyntaxError: "),
    "octets": (1, "octets cannot be imported: SyntaxError: "),
    "exits": (1, "exits cannot be imported: SystemExit: 3"),
    "unreadable": (1, "unreadable cannot be imported: PermissionError"),
    "misspelt": (1, "misspelt does not make a server: TypeError: unknown option 'on_dta'"),
    "option": (1, "did you mean 'max_clients'?"),
    "options": (1, "options.options is of type list: it takes a dict"),
    "nolifespan": (1, "lifespan takes a function"),
}
MODULES = {
    "app": f"{SERVER}\nnumber = 1\ndef nothing(): pass\nasync def later(): pass\n"
    "def fails(): raise OSError('no file')\n",
    "empty": "",
    "raises": "1 / 0",
    "imports": "import gone",
    "syntax": "def",
    "exits": "raise SystemExit(3)",
    "unreadable": "",
    "misspelt": "def on_dta(stream, session, callback): pass",
    "option": f"{HEAD}options = {{'max_client': 1}}",
    "options": f"{HEAD}options = []",
    "nolifespan": f"{HEAD}lifespan = 1",
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faulty")
    for name, text in MODULES.items():
        write(directory, name, text)
    (directory / "unreadable.py").chmod(0)
    (directory / "octets.py").write_bytes(b"\xff\0")
    return directory


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_application_is_one_line_that_says_why(faulty: Path, name: str) -> None:
    if name == "unreadable" and os.access(faulty / "unreadable.py", os.R_OK):
        pytest.skip("this user may read everything")
    ended = run_to_end(name, cwd=faulty)
    status, text = FAULTS[name]
    assert ended.returncode == status
    assert ended.stdout == ""
    assert ended.stderr.startswith("fastsmtp: error: ")
    assert ended.stderr.count("\n") == 1
    assert text.replace("APP", str(faulty)) in ended.stderr


def test_the_traceback_of_an_application_is_shown_by_verbose(faulty: Path) -> None:
    ended = run_to_end("raises", "-v", cwd=faulty)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last):")
    assert "    1 / 0" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("fastsmtp: error: raises cannot be imported")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("app:server", "--maildir=m"), "--maildir: it is for the gateway"),
        (("app:server", "--domain=x.example"), "--domain: it is for the gateway"),
        (("app:server", "--reject-nul"), "--reject-nul: it is for the gateway"),
        (("app:server", "--client-ca=ca"), "--client-ca: it is for the gateway"),
        (("app:server", "--listen=submission://localhost"), "needs_upgrade=True"),
        (("app:server", "--listen=lmtp:0"), "a server that has lmtp=True"),
        (("app:server", "--listen=nowhere"), "not an address to listen on"),
        (("app:server", "--listen=nowhere", "--reload"), "not an address to listen on"),
        (("app server", "--reload"), "give module:attribute"),
        (("--reload",), "nothing to reload"),
    ],
)
def test_options_that_do_not_fit_an_application_are_usage_errors(
    faulty: Path, arguments: tuple[str, ...], text: str
) -> None:
    ended = run_to_end(*arguments, cwd=faulty)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["app:server", ""])
def test_a_port_in_use_is_one_line(faulty: Path, name: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        where = [name] if name else [f"--maildir={tmp_path}/mail"]
        ended = run_to_end(*where, f"--listen=127.0.0.1:{port}", cwd=faulty)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"fastsmtp: error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


# --- start and clean-up ---

FAULTY_LIFESPAN = """
import asyncio, contextlib
from fastsmtp import SMTPServer

@contextlib.asynccontextmanager
async def lifespan(server):
    print("start", flush=True)
    await start()
    yield
    raise OSError("no goodbye")

async def start():
    START

server = SMTPServer(auth_optional=True, disable_reverse_lookup=True, lifespan=lifespan)
server.on_data = lambda stream, session, callback: callback()
"""


@pytest.mark.parametrize("more", [(), ("-v",)])
def test_a_start_that_raises_is_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    text = "raise ConnectionRefusedError(111, 'no database')"
    write(tmp_path, "app", FAULTY_LIFESPAN.replace("START", text))
    ended = run_to_end("app:server", "--listen=127.0.0.1:0", *more, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == "start\n"
    *trace, line = ended.stderr.splitlines()
    assert line.startswith(
        "fastsmtp: error: the start of the application has failed: ConnectionRefusedError:"
    )
    assert f"({tmp_path}/app.py, line " in line
    assert bool(trace) == bool(more)


def test_a_signal_ends_a_start_that_hangs(tmp_path: Path) -> None:
    write(tmp_path, "app", FAULTY_LIFESPAN.replace("START", "await asyncio.Event().wait()"))
    with Application(tmp_path, "app:server", "--listen=127.0.0.1:0") as application:
        application.out.wait("start")
        assert application.stop() == 0
        assert application.out.all == ["start", "fastsmtp: ended"]


def test_a_clean_up_that_raises_is_logged_and_the_status_is_1(tmp_path: Path) -> None:
    write(tmp_path, "app", FAULTY_LIFESPAN.replace("START", "pass"))
    with Application(tmp_path, "app:server", "--listen=127.0.0.1:0") as application:
        application.port()
        assert application.stop() == 1
        assert "a clean-up at the end of the server has failed" in application.errors()[0]
        assert application.errors()[-1].strip() == "OSError: no goodbye"
        assert application.out.all[-1] == "fastsmtp: ended"


# --- without uvloop; reloading ---

WITHOUT = """
import sys
sys.modules[{package!r}] = None
from fastsmtp.gateway.cli import main
sys.exit(main())
"""


def without(package: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", WITHOUT.format(package=package), "serve", *arguments]


@pytest.mark.parametrize("name", ["app:server", ""])
def test_without_uvloop_it_serves_on_asyncio_and_says_so(tmp_path: Path, name: str) -> None:
    write(tmp_path, "app", SERVER)
    where = [name] if name else [f"--maildir={tmp_path}/mail"]
    program = without("uvloop", *where, "--listen=127.0.0.1:0")
    with Application(tmp_path, program=program) as application:
        port = application.port()
        if name:
            assert taken_by(port) == "app"
        assert application.stop() == 0
        text = "fastsmtp: uvloop is not installed: serving on the slower event loop of asyncio"
        assert "\n".join(application.out.all).count(text) == 1
        assert application.errors() == []


def test_reload_without_watchfiles_names_the_extra(tmp_path: Path) -> None:
    program = without("watchfiles", "app:server", "--reload")
    with Application(tmp_path, program=program) as application:
        assert application.wait() == 1
        assert application.errors() == [
            "fastsmtp: error: --reload needs the package watchfiles:"
            " pip install 'fastsmtp-engine[reload]'"
        ]


def test_reload_starts_a_changed_application_anew_also_after_a_broken_one(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    write(tmp_path, "app", SERVER)
    with Application(tmp_path, "app:server", "--listen=127.0.0.1:0", "--reload") as application:
        assert taken_by(application.port()) == "app"
        write(tmp_path, "app", "1 / 0")
        application.out.wait(r"app\.py: changed, starting again")
        application.err.wait("ZeroDivisionError")
        write(tmp_path, "app", SERVER.replace("__name__", "'another'"))
        assert taken_by(application.port()) == "another"
        assert application.stop() == 0
        assert application.out.all[-1] == "fastsmtp: ended"
        assert application.out.all.count("clean up") == 2

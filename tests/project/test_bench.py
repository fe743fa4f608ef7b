"""The programs of bench/, as far as they can be right or wrong without a clock: what they take and
make of samples, and the programs in C talking to each other and to us.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from ladders import climb, crowd, hostile
from load import building, measuring, reporting
from load.measuring import CannotRun, Sample, Usage
from peers import compare, goals, serve, servers
from peers.profiles import PROFILES

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
HAS_COMPILER = shutil.which(os.environ.get("CC") or "cc") is not None

linux = pytest.mark.skipif(sys.platform != "linux", reason="measures on Linux only")
needs_cc = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C compiler")


def sample(microseconds: float, amount: int = 10) -> Sample:
    return Sample(amount, 1.0, Usage(int(microseconds * amount * 1000), 0, 0))


# --- what a command line may say ---


def test_a_run_measures_everything_five_times_unless_told_otherwise() -> None:
    given = compare.parse([])
    assert given.profile == list(PROFILES)
    assert given.servers == list(servers.SERVERS)
    assert given.rounds == 5


@pytest.mark.parametrize(
    "arguments",
    [["--profile", "kept"], ["--servers", "exim"], ["--rounds", "0"], ["--scale", "99"]],
)
def test_an_argument_that_is_not_a_choice_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_every_goal_compares_figures_that_are_measured() -> None:
    for goal in goals.COMPARED:
        for cell in (goal.of, goal.to):
            assert cell is not None
            profile, server = cell
            assert server in PROFILES[profile].servers


def test_every_server_of_a_profile_is_there_and_speaks_it() -> None:
    for profile in PROFILES.values():
        for server in profile.servers:
            assert servers.SERVERS[server].tls or not profile.tls


@pytest.mark.parametrize("name", PROFILES)
def test_small_samples_still_use_every_connection(name: str) -> None:
    assert PROFILES[name].amount(0.0001) >= PROFILES[name].connections


# --- what is made of samples ---


def test_a_goal_is_judged_by_the_median_of_ratios_inside_of_rounds() -> None:
    own, other = ("keep", "fastsmtp"), ("keep", "smtp-sink")
    rounds = [
        {own: sample(1), other: sample(2)},
        {own: sample(30), other: sample(40)},
        {own: sample(9), other: sample(10)},
    ]
    found = {line["goal"]: line for line in goals.compared(rounds)}
    line = found["keep: fastsmtp / smtp-sink"]
    assert (line["lowest"], line["median"], line["highest"]) == (0.5, 0.75, 0.9)
    assert line["met"] is True
    assert found["keep: fastsmtp / floor"]["met"] is None


def test_a_goal_of_the_others_is_met_from_its_limit_on() -> None:
    goal = goals.ahead("keep", "aiosmtpd", 14)
    assert not goal.is_met_by(13.9)
    assert goal.is_met_by(14)
    assert goal.text == "keep: aiosmtpd / fastsmtp"


def test_the_table_of_goals_says_met_missed_and_not_measured() -> None:
    rows = goals.climbed({"import fastsmtp": [70.0, 50.0, 58.0], "longest slice of the loop": [11]})
    text = goals.table(rows).splitlines()
    ends = {line.split("  ")[0]: line.rsplit("  ", 1)[1] for line in text}
    assert ends["import fastsmtp"] == "met"
    assert ends["longest slice of the loop"] == "MISSED"
    assert "not measured" in ends.values()


def test_servers_take_turns_inside_of_each_profile() -> None:
    cells = [("keep", "a"), ("keep", "b"), ("conn", "a"), ("conn", "b"), ("conn", "c")]
    assert compare.turned(cells, 0) == cells
    assert compare.turned(cells, 1) == [cells[1], cells[0], cells[3], cells[4], cells[2]]


def test_numbers_of_reports_are_finite_and_ordered() -> None:
    assert reporting.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}


# --- the programs in C ---


@pytest.fixture(scope="module")
def generator() -> Path:
    return building.generator()


@pytest.fixture(scope="module")
def floor() -> Iterator[int]:
    """The port of a floor."""
    port = free_port()
    process = subprocess.Popen([building.floor(), str(port)])
    try:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield port
    finally:
        process.kill()
        process.wait()


def run(generator: Path, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(generator), f"--port={port}", "--seconds=20", *options]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@linux
@needs_cc
@pytest.mark.parametrize("mode", ["wait", "conn", "pipe", "bdat"])
@pytest.mark.parametrize("octets", [0, 1024, 300_000])
def test_the_floor_takes_what_the_generator_sends(
    generator: Path, floor: int, mode: str, octets: int
) -> None:
    options = ("--count=23", "--connections=4", f"--octets={octets}", f"--mode={mode}")
    found = told(run(generator, floor, *options))
    assert found["messages"] == 23
    assert found["connections"] == (23 if mode == "conn" else 4)
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["highest_us"]


@linux
@needs_cc
@pytest.mark.parametrize("octets", ["0", "60000"])
def test_idle_connections_stand_until_the_input_ends(
    generator: Path, floor: int, octets: str
) -> None:
    options = ("--mode=idle", "--count=30", "--sources=3", f"--octets={octets}")
    found = told(run(generator, floor, *options))
    assert (found["connections"], found["messages"]) == (30, 30 if octets != "0" else 0)


@linux
@needs_cc
def test_the_generator_ends_with_the_reply_that_it_did_not_expect(
    generator: Path, floor: int
) -> None:
    done = run(generator, floor, "--end=550", "--count=3")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "generator: 550 was to come, and '250 2.0.0 OK' came\n"


@linux
@needs_cc
@pytest.mark.parametrize(
    "options", [["--mode=fast"], ["--count=0"], ["--count=x"], ["--end=25"], ["now"]]
)
def test_the_generator_refuses_what_it_does_not_know(generator: Path, options: list[str]) -> None:
    done = run(generator, 1, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("generator: ")


@linux
@needs_cc
def test_the_generator_reports_a_server_that_does_not_listen(generator: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = run(generator, nobody.getsockname()[1])
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


DIALOGUES = {
    "body": (b"DATA\r\nx\r\n.\r\nNOOP\r\n", [b"354", b"250", b"250"]),
    "empty body": (b"DATA\r\n.\r\nNOOP\r\n", [b"354", b"250", b"250"]),
    "dots that end nothing": (
        b"DATA\r\n..\r\n.x\r\na.\r\n\n.\n\r\n.\n\r\r\n.\r\r\n.\r\nNOOP\r\n",
        [b"354", b"250", b"250"],
    ),
    "chunks": (
        b"BDAT 5\r\nNOOP\nBDAT 0\r\nBDAT 3 LAST\r\n.\r\nNOOP\r\n",
        [b"250", b"250", b"250", b"250"],
    ),
}


@linux
@needs_cc
@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_the_floor_gives_the_same_replies_however_reads_are_cut(floor: int, dialogue: str) -> None:
    octets, codes = DIALOGUES[dialogue]
    for cut in range(len(octets)):
        with socket.create_connection(("127.0.0.1", floor), PATIENCE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(octets[:cut])
            client.recv(1)  # of the greeting: the first part has most likely been read
            client.sendall(octets[cut:] + b"QUIT\r\n")
            heard = b""
            while more := client.recv(4096):
                heard += more
        assert [line[:3] for line in heard.splitlines()] == [b"20 ", *codes, b"221"]


def test_a_program_that_does_not_compile_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "BUILT", tmp_path / "built")
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(CannotRun, match=r"needs a C compiler|does not compile: .*nothing"):
        building.compiled("wrong", source)
    assert not list(tmp_path.glob("built/*"))


# --- a whole run ---


@linux
@needs_cc
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_a_run_writes_every_sample_and_names_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    options = ["--profile=pipe,bdat", "--servers=floor,smtp-sink", "--rounds=2", "--scale=0.01"]
    command = [sys.executable, str(ROOT / "bench"), "peers", *options, f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(path.read_text())
    cells = {(line["round"], line["profile"], line["server"]) for line in report["samples"]}
    assert {(number, name, "floor") for number in (1, 2) for name in ("pipe", "bdat")} <= cells
    assert len(cells) == len(report["samples"])
    assert any("smtp-sink" in name for name in report["left_out"])
    assert {line["met"] for line in report["goals"]} == {None}
    assert "left out: smtp-sink" in done.stdout


# --- ladders ---


def test_steps_beyond_the_descriptors_are_cut_to_what_there_is() -> None:
    assert crowd.reached((1_000, 5_000), 65_536) == [1_000, 5_000]
    assert crowd.reached((1_000, 5_000, 20_000), 20_000) == [1_000, 5_000, 20_000 - crowd.SPARE]
    assert crowd.reached((1_000, 5_000), 1_024) == [1_024 - crowd.SPARE]


def test_a_hostile_shape_contains_no_early_end_of_data() -> None:
    for shape in hostile.SHAPES.values():
        whole = b"\r\n" + shape.pattern * (2 + 10 // len(shape.pattern)) + b"x\r\n.\r\n"
        assert whole.index(b"\r\n.\r\n") == len(whole) - 5
        without = whole.replace(b"\r\n", b"")
        assert shape.bare == (b"\r" in without or b"\n" in without)


def test_every_ladder_has_its_goal_and_every_goal_its_ladder() -> None:
    found = climb.parse(["--only", "memory,slices"])
    assert found.only == ["memory", "slices"]
    names = {goal.text for goal in goals.CLIMBED}
    assert len(names) == len(goals.CLIMBED) == 9


def test_a_server_of_the_load_takes_options_and_a_certificate() -> None:
    arguments = ["max_clients=0", "bare_newline=accept", "some.pem"]
    assert serve.parsed(arguments) == ("some.pem", {"max_clients": 0, "bare_newline": "accept"})


@linux
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_a_watched_server_tells_how_long_its_loop_was_held() -> None:
    with hostile.watched(crowd.Cores(*measuring.cores()), hostile.JUDGED, "reject") as running:
        assert "PIPELINING" in running.keywords
        first, second = hostile.longest(running), hostile.longest(running)
    assert first > 0
    assert second > 0

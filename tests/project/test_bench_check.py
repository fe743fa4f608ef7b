"""Can `make bench-check` be trusted? Its rules on made-up figures, its revisions on small
repositories, and, as nightly tests, the whole of it: on the unchanged commit while another process
keeps a core busy, and on code that was made slower on purpose.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from check import alternation, environments, instructions, main, revisions, suite, verdicts
from check.environments import Environment
from check.suite import Run
from load.measuring import CannotRun

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.10
# Read, not imported: the check is made of nothing that needs a build of the package.
MEASURES = re.findall(r'^    "([^"]+)": \(', instructions.DRIVEN.read_text(), re.MULTILINE)

linux = pytest.mark.skipif(sys.platform != "linux", reason="measures on Linux only")


# --- verdicts on made-up figures ---


def entry(name: str, seconds: float) -> dict[str, Any]:
    return {"fullname": name, "stats": {"min": seconds}, "extra_info": {}}


class FakeBuild:
    """A build whose benchmarks take the given times, run after run."""

    def __init__(self, *failed: str, **times: list[float]) -> None:
        self.times = {name: cycle(of) for name, of in times.items()}
        self.failed = list(failed)
        self.asked: list[list[str] | None] = []
        self.seeds: list[int] = []

    def __call__(self, seed: int, names: list[str] | None) -> Run:
        self.seeds.append(seed)
        self.asked.append(names)
        chosen = self.times if names is None else names
        found = {name: entry(name, next(self.times[name])) for name in chosen}
        return Run({"machine_info": {}}, found, self.failed)


def words(base: FakeBuild, candidate: FakeBuild, rounds: int = 4, more: int = 8) -> dict[str, str]:
    found = alternation.alternate(base, candidate, TOLERANCE, rounds, more)
    return {verdict.name: verdict.word for verdict in found.verdicts}


def test_a_benchmark_that_takes_15_percent_more_is_slower_and_the_rest_is_not() -> None:
    base = FakeBuild(parse=[1.0, 1.02, 1.1], feed=[2.0, 2.1])
    candidate = FakeBuild(parse=[1.15, 1.3, 1.2], feed=[2.02, 2.3])
    assert words(base, candidate) == {"parse": "slower", "feed": "same"}


def test_a_benchmark_that_takes_15_percent_less_is_faster() -> None:
    assert words(FakeBuild(parse=[1.15]), FakeBuild(parse=[1.0])) == {"parse": "faster"}


def test_noise_on_one_side_only_makes_nothing_slower() -> None:
    """Of five runs four are disturbed; the fastest is as it was, and so are most pairs."""
    candidate = FakeBuild(parse=[1.6, 1.0, 1.02, 1.01, 1.9])
    assert words(FakeBuild(parse=[1.0]), candidate) == {"parse": "same"}


def test_a_fast_moment_that_only_the_base_has_met_makes_nothing_slower() -> None:
    base = FakeBuild(parse=[1.0, 1.0, 0.8, *[1.0] * 20])
    assert words(base, FakeBuild(parse=[1.0])) == {"parse": "same"}


def test_a_fast_moment_that_only_the_candidate_has_met_hides_nothing() -> None:
    candidate = FakeBuild(parse=[1.15, 1.15, 0.9, *[1.15] * 20])
    assert words(FakeBuild(parse=[1.0]), candidate) == {"parse": "slower"}


def test_a_benchmark_that_may_be_slower_is_run_again_until_it_is_not() -> None:
    base = FakeBuild(parse=[1.0], feed=[1.0])
    candidate = FakeBuild(parse=[1.2, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0], feed=[1.0])
    assert words(base, candidate, rounds=2, more=20) == {"parse": "same", "feed": "same"}
    assert candidate.asked == [None, None, ["parse"], ["parse"], ["parse"]]
    assert base.asked == candidate.asked


def test_more_rounds_have_a_bound() -> None:
    candidate = FakeBuild(parse=[1.2])
    assert words(FakeBuild(parse=[1.0]), candidate, rounds=2, more=5) == {"parse": "slower"}
    assert len(candidate.asked) == 7


def test_both_runs_of_a_pair_have_the_same_seed_of_hashes() -> None:
    base, candidate = FakeBuild(parse=[1.0]), FakeBuild(parse=[1.0])
    words(base, candidate, rounds=3)
    assert base.seeds == candidate.seeds == [1, 2, 3]


def test_a_benchmark_that_does_not_run_on_the_base_is_new() -> None:
    found = words(FakeBuild("feed", parse=[1.0]), FakeBuild(parse=[1.0], feed=[9.0]))
    assert found == {"parse": "same", "feed": "new"}


def test_a_benchmark_that_fails_on_the_candidate_ends_the_check() -> None:
    candidate = FakeBuild("feed", parse=[1.0])
    found = alternation.alternate(FakeBuild(parse=[1.0]), candidate, TOLERANCE, 4, 8)
    assert found.failed == ["feed"]
    assert len(candidate.asked) == 1


def test_a_check_whose_base_runs_nothing_does_not_pass() -> None:
    with pytest.raises(CannotRun, match="nothing was compared"):
        words(FakeBuild("feed"), FakeBuild(feed=[1.0]))


def test_the_report_names_each_benchmark_with_both_figures() -> None:
    pairs = verdicts.Pairs()
    pairs.add(entry("parse", 1e-6), entry("parse", 1.15e-6))
    line = verdicts.line(verdicts.verdict("parse", pairs, TOLERANCE))
    assert line.split() == ["slower", "1", "µs", "1.15", "µs", "+15.0%", "+15.0%", "parse"]
    new = verdicts.line(verdicts.Verdict("feed", "new", None, 2.5e-8))
    assert new.split() == ["new", "-", "25", "ns", "feed"]


def real_entry(seconds: float) -> dict[str, Any]:
    names = ("max", "mean", "stddev", "median", "iqr", "q1", "q3", "ld15iqr", "hd15iqr", "ops")
    stats: dict[str, Any] = dict.fromkeys(names, seconds)
    stats |= {"min": seconds, "outliers": "1;1", "rounds": 5, "iterations": 1, "total": seconds}
    stats |= {"iqr_outliers": 1, "stddev_outliers": 1}
    return dict.fromkeys(("group", "params", "param")) | {
        "name": "test_parse", "fullname": "bench/test_parse", "extra_info": {}, "stats": stats,
    }  # fmt: skip


def test_the_json_is_read_by_the_compare_of_pytest_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="needs the extra bench")
    report = {"machine_info": {}, "commit_info": {"id": "1"}, "datetime": "", "version": "5"}

    def side(seconds: float) -> alternation.Runner:
        return lambda seed, names: Run(report, {"bench/test_parse": real_entry(seconds)}, [])

    found = alternation.alternate(side(1.0), side(1.3), TOLERANCE, 1, 0)
    (judged,) = found.candidate["benchmarks"]
    assert judged["extra_info"] == {"verdict": "slower", "by minima": 1.3, "by pairs": 1.3}
    for name, of in (("base", found.base), ("candidate", found.candidate)):
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "base.json", "candidate.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test_parse") >= 2


# --- instructions ---


BUILD = {
    "python": "CPython 3.11.7",
    "compiler": "gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
    "cython": "3.3.1",
    "machine": "x86_64 with AVX2",
}


def test_5_percent_more_instructions_are_more_and_1_percent_is_not() -> None:
    before = {"command": 1000.0, "message": 1000.0, "connection": 1000.0}
    now = {"command": 1050.0, "message": 1010.0, "connection": 900.0, "session": 1.0}
    found = instructions.compared(before, now, 0.02)
    assert {counted.measure: counted.word for counted in found} == {
        "command": "more", "message": "same", "connection": "fewer", "session": "new",
    }  # fmt: skip
    assert found[0].line().split() == ["more", "1,000", "1,050", "+5.0%", "command"]


def test_an_excess_over_the_record_that_the_base_has_already_does_not_fail() -> None:
    found = instructions.compared({"command": 1000.0, "message": 1000.0}, {"command": 1050.0}, 0.02)
    (complaint,) = main._more("a record", found, set())
    assert complaint.startswith("a command takes 1,050 instructions instead of 1,000 (a record)")
    assert main._more("a record", found, {"command"}) == []


def test_a_record_of_the_same_build_is_compared_with(tmp_path: Path) -> None:
    path = instructions.write(tmp_path, BUILD, "1f57025", {"command": 1000.0})
    assert path.name == "instructions-cpython-3.11-gcc-12.2.0.json"
    assert instructions.records(tmp_path, BUILD) == ({path.name: {"command": 1000.0}}, [])


@pytest.mark.parametrize(
    "name, value",
    [("python", "CPython 3.11.9"), ("compiler", "gcc 13.1"), ("cython", "3.2.1"), ("libc", "2.36")],
)
def test_a_record_of_another_build_is_left_out_by_name(
    tmp_path: Path, name: str, value: str
) -> None:
    path = instructions.write(tmp_path, BUILD, "1f57025", {"command": 1000.0})
    fitting, (line,) = instructions.records(tmp_path, BUILD | {name: value})
    assert fitting == {}
    assert path.name in line
    assert f"{name} {BUILD.get(name)} (here {value})" in line


@pytest.mark.parametrize(
    "compiler, name",
    [("Debian clang version 14.0.6", "debian-14.0.6"), ("cc (GCC) 13.2.1 20240101", "cc-13.2.1")],
)
def test_each_compiler_has_a_record_of_its_own(compiler: str, name: str) -> None:
    found = instructions.file_name(BUILD | {"compiler": compiler})
    assert found == f"instructions-cpython-3.11-{name}.json"


def test_the_kept_records_have_every_measure_and_name_their_build() -> None:
    kept = sorted((ROOT / "bench" / "results").glob("instructions-*.json"))
    for path in kept:  # an sdist has none
        record = json.loads(path.read_text())
        assert path.name == instructions.file_name(record["identity"])
        assert list(record["instructions"]) == list(MEASURES)


def test_the_counted_scripts_use_public_names_of_the_package_only() -> None:
    text = instructions.DRIVEN.read_text()
    assert set(re.findall(r"fastsmtp[\w.]*(?= import)", text)) == {"fastsmtp", "fastsmtp.testing"}


def test_every_measure_plays_its_script_to_the_engine() -> None:
    done = subprocess.run([sys.executable, instructions.DRIVEN], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t")[:2] for line in done.stdout.splitlines()]
    assert lines == [["counted", name] for name in MEASURES]


def test_start_and_end_cancel_out_and_a_script_that_fails_has_no_count() -> None:
    said = "counted\tcommand\t100\nfailed\tmessage\tNameError: why\ncounted\tconnection\t20\n"
    totals = [999_999, 5_000 + 7_000, 5_000 + 2 * 7_000, 77, 300 + 2_000, 300 + 2 * 2_000]
    counts, failed = instructions.per_unit(totals, said)
    assert counts == {"command": 70.0, "connection": 100.0}
    assert failed == {"message": "NameError: why"}
    with pytest.raises(CannotRun, match="5 marks of 6"):
        instructions.per_unit(totals[:5], said)


def test_the_check_itself_needs_no_build_of_the_package() -> None:
    text = "import sys; sys.modules['fastsmtp'] = None; from check import main, recording"
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "bench")
    assert (done.returncode, done.stderr) == (0, "")


# --- revisions ---


class Repository:
    """A small repository on the branch `work`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = count()
        folder.mkdir()
        self.git("init", "-q", "-b", "work")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return revisions.git(self.folder, *who, *arguments)

    def commit(self, name: str = "fastsmtp/file") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(next(self.numbers)))
        self.git("add", ".")
        self.git("commit", "-q", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def base(self, asked: str = "") -> revisions.Revision:
        return revisions.base(self.folder, asked, revisions.working_tree(self.folder))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    return Repository(tmp_path / "repository")


def test_the_candidate_is_the_working_tree_with_what_is_not_committed(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit()
    (repository.folder / ".gitignore").write_text("*.so\n")
    (repository.folder / "new").write_text("new")
    (repository.folder / "built.so").write_text("")
    (repository.folder / "fastsmtp/file").write_text("changed")
    before = repository.git("status", "--short")
    found = revisions.working_tree(repository.folder)
    revisions.export(repository.folder, found, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {".gitignore", "new", "file"}
    assert (tmp_path / "out/fastsmtp/file").read_text() == "changed"
    assert found.title.endswith("and changes that are not committed")
    assert repository.git("status", "--short") == before


def test_the_default_base_is_the_last_tag(repository: Repository) -> None:
    tagged = repository.commit()
    repository.git("tag", "v1")
    repository.commit()
    found = repository.base()
    assert (found.commit, found.title) == (tagged, f"the last tag, v1: {tagged[:12]}")


def test_the_default_base_without_a_tag_is_the_merge_base_with_main(repository: Repository) -> None:
    forked = repository.commit()
    repository.git("branch", "main")
    repository.commit()
    found = repository.base()
    assert (found.commit, found.title) == (forked, f"the merge base with main: {forked[:12]}")


def test_the_main_branch_of_the_origin_comes_before_the_own_one(repository: Repository) -> None:
    repository.commit()
    repository.git("branch", "main")
    fetched = repository.commit()
    repository.git("update-ref", "refs/remotes/origin/main", fetched)
    repository.commit()
    assert repository.base().title == f"the merge base with origin/main: {fetched[:12]}"


def test_changes_on_main_are_compared_with_the_last_commit(repository: Repository) -> None:
    last = repository.commit()
    repository.git("branch", "main")
    (repository.folder / "fastsmtp/file").write_text("changed")
    assert repository.base().commit == last


def test_a_tag_that_is_the_candidate_itself_is_passed_over(repository: Repository) -> None:
    earlier = repository.commit()
    repository.git("tag", "v1")
    repository.commit()
    repository.git("tag", "v2")
    assert repository.base().commit == earlier


def test_the_default_base_without_tag_and_branch_is_the_commit_before(
    repository: Repository,
) -> None:
    before = repository.commit()
    repository.commit()
    found = repository.base()
    assert (found.commit, found.title) == (before, f"the commit before the last: {before[:12]}")


def test_a_repository_of_one_commit_asks_for_a_base(repository: Repository) -> None:
    repository.commit()
    with pytest.raises(CannotRun, match="say BASE="):
        repository.base()


@pytest.mark.parametrize("asked", ["v9", "--help", "HEAD~7"])
def test_a_base_that_does_not_exist_is_an_error_that_names_it(
    repository: Repository, asked: str
) -> None:
    repository.commit()
    with pytest.raises(CannotRun, match=f"BASE={asked}: there is no such revision"):
        repository.base(asked)


def test_a_base_that_is_asked_for_is_taken_even_if_it_is_the_candidate(
    repository: Repository,
) -> None:
    assert repository.commit() == repository.base("HEAD").commit


def test_a_folder_that_is_not_a_checkout_is_an_error_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--repository", str(tmp_path)]) == 2
    assert "cannot be checked: " in capsys.readouterr().err


def test_a_change_of_tests_or_benchmarks_needs_no_new_build(repository: Repository) -> None:
    repository.commit()
    first = revisions.built_from(repository.folder, repository.base("HEAD"))
    repository.commit("tests/test_it.py")
    repository.commit("bench/check/it.py")
    assert revisions.built_from(repository.folder, repository.base("HEAD")) == first
    repository.commit("setup.py")
    assert revisions.built_from(repository.folder, repository.base("HEAD")) != first


# --- environments and runs ---


def test_versions_that_differ_are_reported_and_builds_see_no_switch_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Environment(Path(), {}, {"uvloop": "0.22", "pytest": "9"})
    other = Environment(Path(), {}, {"uvloop": "0.23", "pytest": "9"})
    assert environments.differences(one, other) == ["uvloop 0.22, 0.23"]
    monkeypatch.setenv("FASTSMTP_DEBUG", "1")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    assert not environments.clean().keys() & {"FASTSMTP_DEBUG", "PYTHONPATH"}


@pytest.fixture
def here(tmp_path: Path) -> Environment:
    """The environment of these tests, in the place of one that was built."""
    pytest.importorskip("pytest_benchmark", reason="needs the extra bench")
    (tmp_path / "env/bin").mkdir(parents=True)
    # A link to the interpreter alone would not find the environment of that.
    script = tmp_path / "env/bin/python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return Environment(tmp_path / "env", {}, {})


def benchmarks(tmp_path: Path, **files: str) -> Path:
    micro = tmp_path / "source/bench/micro"
    micro.mkdir(parents=True)
    for name, text in files.items():
        (micro / f"test_{name}.py").write_text(text)
    return suite.write_out(tmp_path / "source", tmp_path / "suite")


@linux
def test_a_file_and_a_benchmark_that_fail_do_not_keep_the_others_from_running(
    tmp_path: Path, here: Environment
) -> None:
    written = benchmarks(
        tmp_path,
        gone="from fastsmtp import nothing_of_that_name\n\ndef test_it(benchmark): ...\n",
        some="def test_well(benchmark):\n    benchmark(len, 'a - b')\n"
        "def test_badly(benchmark):\n    raise AttributeError('a - b')\n",
    )
    found = suite.run(written, here, 1)
    assert list(found.benchmarks) == ["bench/micro/test_some.py::test_well"]
    assert found.failed == ["bench/micro/test_some.py::test_badly", "bench/micro/test_gone.py"]


@linux
def test_benchmarks_are_chosen_by_any_name_and_measured_in_cpu_time(
    tmp_path: Path, here: Environment
) -> None:
    text = (
        "import pytest\n"
        "@pytest.mark.parametrize('it', ['@a b', 'é::[x]', '-k'])\n"
        "def test_it(benchmark, it):\n    benchmark(len, it)\n"
    )
    written = benchmarks(tmp_path, it=text)
    every = suite.run(written, here, 1).benchmarks
    assert len(every) == 3
    for name in every:
        (chosen,) = suite.run(written, here, 2, [name]).benchmarks.values()
        assert chosen["fullname"] == name
        assert chosen["options"]["timer"] == "process_time"


@linux
def test_a_suite_that_pytest_cannot_run_is_an_error_with_the_reason(
    tmp_path: Path, here: Environment
) -> None:
    written = benchmarks(tmp_path)
    with pytest.raises(CannotRun, match="pytest ended with"):
        suite.run(written, here, 1, ["bench/micro/test_none.py"])


@pytest.mark.parametrize("text, value", [("10%", 0.1), ("2", 0.02)])
def test_a_tolerance_is_a_percentage(text: str, value: float) -> None:
    assert main.share(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1%", "much", "nan"])
def test_an_invalid_tolerance_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no tolerance"):
        main.share(text)


# --- the whole of it ---

# The body of a C loop that takes its length from the environment, so that one build can be made
# slower by as much as is wanted.
PLANTED = """
import os as _os
cdef int _planted = int(_os.environ.get("PLANTED", "0"))

cdef void _burn() noexcept nogil:
    cdef volatile int left = _planted
    while left > 0:
        left -= 1

"""
HOT = "parse_forward_path"
NAMED = "test_forward_path"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with the files of this one, in one commit."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a checkout of git")
    folder = tmp_path_factory.mktemp("check") / "checkout"
    found = Repository(folder)
    revisions.export(ROOT, revisions.working_tree(ROOT), folder)
    found.git("add", ".")
    found.git("commit", "-q", "-m", "all of it")
    return found


def checked(repository: Repository, *options: str) -> tuple[int, str]:
    """Run the check beside the last commit; return its status and what it has printed."""
    command = [sys.executable, str(repository.folder / "bench"), "check", "--base=HEAD", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    if re.search(r"ConnectionError|ConnectTimeout|MaxRetryError", done.stderr):
        pytest.skip("the package index cannot be reached")
    return done.returncode, done.stdout


@pytest.fixture
def busy() -> Iterator[None]:
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


@pytest.fixture
def planted(checkout: Repository) -> Iterator[Repository]:
    """The checkout with a loop in one hot function, which is not committed."""
    head = re.compile(rf'^c?p?def [\w ]*{HOT}\([^)]*\):\n    """[^"]*"""\n', re.MULTILINE)
    sources = {path: path.read_text() for path in (checkout.folder / "fastsmtp").rglob("*.pyx")}
    ((path, text),) = [item for item in sources.items() if head.search(item[1])]
    path.write_text(head.sub(lambda found: f"{PLANTED}\n{found[0]}    _burn()\n", text))
    yield checkout
    path.write_text(text)


def turns_for(share: float, cost: Callable[[int], float]) -> int:
    """Return the length of the loop that makes `cost` larger by `share`."""
    empty, much = cost(0), cost(400)
    return round(400 * share * empty / (much - empty))


@pytest.mark.nightly
@linux
@pytest.mark.usefixtures("busy")
def test_the_unchanged_commit_passes_three_times_while_a_core_is_busy(
    checkout: Repository,
) -> None:
    for _ in range(3):
        status, report = checked(checkout)
        assert status == 0, report
        assert not re.search(r"^slower|^more", report, re.MULTILINE)


@pytest.mark.nightly
@linux
@pytest.mark.usefixtures("busy")
def test_a_hot_function_that_takes_15_percent_longer_fails_by_name(
    planted: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = environment_of(planted)
    revisions.export(planted.folder, revisions.working_tree(planted.folder), tmp_path / "source")
    written = suite.write_out(tmp_path / "source", tmp_path / "suite")
    name = f"bench/micro/test_grammar.py::{NAMED}"

    def cost(turns: int) -> float:
        monkeypatch.setenv("PLANTED", str(turns))
        runs = [suite.run(written, after, seed, [name]) for seed in range(1, 13)]
        return min(verdicts.seconds(run.benchmarks[name]) for run in runs)

    monkeypatch.setenv("PLANTED", str(turns_for(0.15, cost)))
    status, report = checked(planted, "--only=times")
    assert status == 1
    assert re.search(rf"^FAILED: .*::{NAMED} takes", report, re.MULTILINE)
    assert re.findall(r"^slower.*::(\S+)$", report, re.MULTILINE) == [NAMED]


@pytest.mark.nightly
@linux
@pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing())
def test_5_percent_more_instructions_fail(
    planted: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = environment_of(planted)

    def cost(turns: int) -> float:
        monkeypatch.setenv("PLANTED", str(turns))
        return instructions.count(after)[0]["command"]

    monkeypatch.setenv("PLANTED", str(turns_for(0.05, cost)))
    status, report = checked(planted, "--only=instructions")
    assert status == 1
    assert re.search(r"^FAILED: a command takes .* instructions", report, re.MULTILINE)
    (share,) = re.findall(r"^more .*\+(\S+)%  command$", report, re.MULTILINE)[:1]
    assert 4.5 < float(share) < 5.5


def environment_of(repository: Repository) -> Environment:
    """Build the base and the working tree as the check will; return the latter."""
    candidate = revisions.working_tree(repository.folder)
    with environments.shelf(repository.folder) as folder:
        base = revisions.base(repository.folder, "HEAD", candidate)
        before = environments.built(repository.folder, base, folder, "base")
        return environments.built(repository.folder, candidate, folder, "work", before)

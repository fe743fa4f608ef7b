"""The pages are true: programs run, tables are those of the source, links lead somewhere.

A block of Python in docs/*.md is executed as it stands; one marked `test` has a file of its own
here. If it serves, `SMTPServer.listen` takes a free port of 127.0.0.1 in place of the one that is
written there, and each block `smtp` after it is played against it by a client: `C:` is sent, `S:`
must come, … stands for anything. The greeting and EHLO are left out unless the block says
`at connect`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import importlib.util
import logging
import re
import tomllib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import compiled
import pytest
from clients import PATIENCE, until

from fastsmtp import SMTPServer, replies
from fastsmtp._smtp.states import State
from fastsmtp.options import OPTIONS
from fastsmtp.replies import Reply

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DOCS = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}

FENCE = re.compile(r"^```(\S*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One program of a page and what a client says to it. kind: "", or "at connect"."""

    page: str
    line: int
    code: str
    dialogues: list[tuple[str, str]]


def blocks() -> list[Block]:
    found: list[Block] = []
    for page, text in sorted(DOCS.items()):
        for fence in FENCE.finditer(text):
            language, kind, content = fence.groups()
            if language == "python" and kind != "test":
                line = text.count("\n", 0, fence.start()) + 2
                found.append(Block(page, line, content, []))
            elif language == "smtp":
                assert found, f"{page}: a dialogue without its program"
                assert found[-1].page == page
                found[-1].dialogues.append((kind, content))
    return found


# --- programs -------------------------------------------------------------------------------------


@contextlib.contextmanager
def logging_as_before() -> Iterator[None]:
    """Undo at the end what a program has done with the loggers."""
    loggers = [logging.getLogger(name) for name in (None, "fastsmtp", "fastsmtp.rcpt")]
    before = [(each, each.level, [*each.handlers]) for each in loggers]
    yield
    for each, level, handlers in before:
        each.setLevel(level)
        each.handlers[:] = handlers


class ProgramRunner:
    """Executes a block, and keeps the coroutine that it would have run for ever."""

    def __init__(self) -> None:
        self.servers: list[SMTPServer] = []
        self.programs: list[Coroutine[Any, Any, None]] = []

    @contextlib.contextmanager
    def set_up(self) -> Iterator[None]:
        listen = SMTPServer.listen

        async def listen_anywhere(server: SMTPServer, *args: Any, **where: Any) -> None:
            await listen(server, 0, "127.0.0.1")
            self.servers.append(server)

        async def serve(server: SMTPServer) -> None:
            await server.listen(0)
            try:
                await asyncio.Event().wait()
            finally:
                await server.close()

        def run_server(server: SMTPServer, *args: Any, **where: Any) -> None:
            self.programs.append(serve(server))

        with pytest.MonkeyPatch.context() as patch, logging_as_before():
            patch.setattr(SMTPServer, "listen", listen_anywhere)
            patch.setattr(SMTPServer, "run", run_server)
            patch.setattr(asyncio, "run", self.programs.append)
            yield

    def execute(self, block: Block) -> None:
        # Tracebacks and warnings name the page and the line in it.
        tree = ast.increment_lineno(ast.parse(block.code), block.line - 1)
        code = compile(tree, f"docs/{block.page}", "exec", dont_inherit=True)
        exec(code, {"__name__": "__main__"})


class DialogueClient:
    """A client that plays a dialogue line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def hears(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return (await self._reader.readline()).decode().removesuffix("\r\n")

    def says(self, line: str) -> None:
        self._writer.write(line.encode() + b"\r\n")

    async def greet(self) -> None:
        greeting = await self.hears()
        assert greeting.startswith("220 "), greeting
        self.says("LHLO client.example" if "LMTP" in greeting else "EHLO client.example")
        while not (await self.hears()).startswith("250 "):
            pass

    async def play(self, dialogue: str) -> None:
        for line in dialogue.splitlines():
            who, text = line[:2], line[3:]
            if who == "C:":
                self.says(text)
            else:
                assert who == "S:", line
                pattern = ".*".join(map(re.escape, text.split("…")))
                told = await self.hears()
                assert re.fullmatch(pattern, told), (told, text)
        # And that was all: the next reply is that to the next command, or the server has closed.
        self.says("NOOP")
        with contextlib.suppress(ConnectionError):
            assert await self.hears() in ("", "250 2.0.0 OK")


async def play(server: SMTPServer, kind: str, dialogue: str) -> None:
    address = server.address()
    assert isinstance(address, tuple)
    reader, writer = await asyncio.open_connection(*address)
    try:
        talk = DialogueClient(reader, writer)
        if kind != "at connect":
            await talk.greet()
        await talk.play(dialogue)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def perform(stage: ProgramRunner, program: Coroutine[Any, Any, None], block: Block) -> None:
    """Run a program until its dialogues are played; one that has none ends by itself."""
    if not block.dialogues:
        async with asyncio.timeout(PATIENCE):
            return await program
    task = asyncio.ensure_future(program)
    try:
        await until(lambda: stage.servers or task.done())
        for kind, dialogue in block.dialogues:
            await play(stage.servers[0], kind, dialogue)
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}:{block.line}")
def test_the_programs_of_the_pages_run_and_have_the_dialogue_that_is_shown(
    run: Any, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = ProgramRunner()
    with stage.set_up():
        stage.execute(block)
        assert len(stage.programs) <= 1
        assert stage.programs or not block.dialogues, "a dialogue without a server"
        for program in stage.programs:
            run(perform(stage, program, block))


def test_every_page_of_hooks_and_stream_shows_programs() -> None:
    pages = [block.page for block in blocks() if block.dialogues]
    assert pages.count("hooks.md") >= 7
    assert pages.count("stream.md") >= 3


# --- what the tables say --------------------------------------------------------------------------


def rows(page: str, section: str = "", *, whole: bool = False) -> list[list[str]]:
    """The cells of all table rows of a page or a section. whole: with its subsections."""
    text = DOCS[page]
    if section:
        assert f"## {section}\n" in text, f"{page} has no section {section}"
        end = "^## " if whole else "^##+ "
        text = re.split(end, text.partition(f"## {section}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def constants() -> dict[str, Reply]:
    return {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}


def shown(reply: Reply) -> tuple[str, str, str]:
    """Code, enhanced code and text, any variable part of it as …."""
    text = re.sub(r"%[sd]", "…", reply.text)
    return str(reply.code), reply.enhanced_code or "–", text


def test_the_table_of_replies_has_every_reply_of_the_engine_and_no_other() -> None:
    table = set()
    for cells in rows("replies.md", "Replies of the engine"):
        if cells[0].isdigit():
            code, enhanced, text, *_ = cells
            table.add((code, enhanced, re.sub(r"<[a-z]+>", "…", text.strip("`"))))
    engine = {shown(reply) for reply in constants().values()}
    # <CR>, <LF> are themselves; names in lower case stand for what varies.
    assert table == engine


def test_the_table_of_enhanced_codes_is_that_of_the_engine() -> None:
    source = (ROOT / "fastsmtp" / "_smtp" / "hook_replies.py").read_text(encoding="utf-8")
    (text,) = re.findall(r"^_ENHANCED: .*? = (\{.*?^\})", source, re.MULTILINE | re.DOTALL)
    table = {
        int(code): tuple(codes)
        for code, *codes in rows("replies.md", "Enhanced codes of rejections")
        if code.isdigit()
    }
    assert table == ast.literal_eval(text)


def test_the_documented_deadlines_are_those_of_the_options() -> None:
    told = {
        name.strip("`"): default
        for name, default, *_ in rows("limits.md", "Deadlines")
        if name.startswith("`")
    }
    assert told
    for name, default in told.items():
        assert float(default) == OPTIONS[name].default, name
    deadlines = {one.name for one in OPTIONS.values() if one.group.value == "Deadlines"}
    assert set(told) == deadlines


def test_the_documented_bounds_are_those_of_the_source() -> None:
    told = [cells for cells in rows("internals.md", "Bounds") if cells[0].startswith("`")]
    assert len(told) > 10
    for name, value, *_ in told:
        module, _, constant = name.strip("`").rpartition(".")
        assert getattr(importlib.import_module(f"fastsmtp.{module}"), constant) == float(
            value.replace("\u202f", "")
        ), name


def test_the_documented_compiled_modules_are_those_of_the_build() -> None:
    told = {
        re.sub(r"`", "", name): kind
        for name, kind, *_ in rows("internals.md", "Modules", whole=True)
        if kind in ("Cython", "Python, compiled")
    }
    assert {name for name, kind in told.items() if kind == "Cython"} == set(compiled.CYTHON)
    assert {name for name, kind in told.items() if kind != "Cython"} == set(compiled.PYTHON)


def test_every_module_of_the_engine_has_its_row() -> None:
    told = {re.sub(r"`", "", cells[0]) for cells in rows("internals.md", "Modules", whole=True)}
    package = ROOT / "fastsmtp"
    there = {
        path.relative_to(package).as_posix()
        for pattern in ("*.py", "*.pyx", "*.h")
        for path in package.rglob(pattern)
        if path.name not in ("__init__.py", "__main__.py") and "gateway" not in path.parts
    }
    assert there <= told
    assert {name for name in told if name.endswith((".py", ".pyx", ".h"))} <= there


@pytest.mark.parametrize("name", ["data", "stages"])
def test_the_drawings_are_those_of_their_program(name: str) -> None:
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "docs" / "make_diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    diagrams = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagrams)
    drawn = str(getattr(diagrams, name)())
    checked_in = (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    assert checked_in == drawn, "run: python docs/make_diagrams.py"
    ElementTree.fromstring(drawn)


def test_the_drawing_of_stages_names_every_stage_and_every_state() -> None:
    drawing = (ROOT / "docs" / "stages.svg").read_text(encoding="utf-8")
    table = DOCS["internals.md"].partition("| stage |")[2].partition("\n\n")[0]
    names = set(re.findall(r"^\| `(\w+)`|, `(\w+)` \|", table, re.MULTILINE))
    stages = {name for pair in names for name in pair if name}
    assert len(stages) == 7
    assert not {name for name in stages if name not in drawing}
    assert not {state.name for state in State if f">{state.name}<" not in drawing}


# --- names and links ------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as the usual hosting pages make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
OWN = re.compile(
    f"{re.escape(SOURCE)}/(?:blob|tree)/main/"
    f"|{re.escape(SOURCE.replace('//github.com/', '//raw.githubusercontent.com/'))}/main/"
)


def is_dead(target: str, page: Path) -> bool:
    """Whether a link leads to a file or a heading of this repository that is not there."""
    folder = page.parent
    if (own := OWN.match(target)) is not None:
        folder, target = ROOT, target[own.end() :]
    elif re.match(r"[a-z]+:", target):
        return target.startswith(SOURCE) and target not in PROJECT["urls"].values()
    name, _, anchor = target.partition("#")
    there = (folder / name).resolve() if name else page
    return not there.exists() or bool(anchor and anchor not in anchors(there))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", text)
    assert not [link or image for link, image in targets if is_dead(link or image, page)]


def test_the_addresses_of_the_project_lead_into_the_repository() -> None:
    named = [url for url in PROJECT["urls"].values() if OWN.match(url)]
    assert named
    assert not [url for url in named if is_dead(url, ROOT / "README.md")]


def test_readme_knows_one_address_of_the_repository() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hosts = r"\]\((https://(?:raw\.)?github(?:usercontent)?\.com/[^)\s]+)\)"
    named = re.findall(hosts, readme)
    assert named
    assert not [url for url in named if not OWN.match(url)]


@pytest.mark.parametrize(
    "target, dead",
    [
        ("docs/hooks.md#on_auth", False),
        ("docs/hooks.md#no-such-heading", True),
        (f"{SOURCE}/blob/main/docs/hooks.md#on_auth", False),
        (f"{SOURCE}/blob/main/docs/no_such_page.md", True),
        (f"{SOURCE}/wiki", True),
        (f"{SOURCE}/issues", False),
        ("https://www.rfc-editor.org/rfc/rfc5321", False),
    ],
)
def test_dead_links_are_found(target: str, dead: bool) -> None:
    assert is_dead(target, ROOT / "README.md") == dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    pattern = r"`((?:fastsmtp|tests|docs|bench|examples|\.ci)/[\w./*-]*)`"
    missing = [name for name in re.findall(pattern, text) if not list(ROOT.glob(name.rstrip("/")))]
    generated = {"bench/results/latest.json", "tests/fuzz/work"}
    assert not [name for name in missing if name.rstrip("/") not in generated]


@pytest.mark.parametrize("page", ["rfc.md", "security.md"])
def test_the_tests_that_a_table_names_exist(page: str) -> None:
    named = re.findall(r"\b(test_\w+)\b", DOCS[page])
    assert named
    assert not [name for name in named if not any((ROOT / "tests").rglob(f"{name}.py"))]


def test_the_sources_that_the_table_of_rfcs_names_exist() -> None:
    named = re.findall(r"`((?:gateway/|delivery/)?\w+\.(?:pyx|py|h))`", DOCS["rfc.md"])
    assert named
    assert not [name for name in named if not (ROOT / "fastsmtp" / name).exists()]

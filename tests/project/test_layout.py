"""The rules about the source itself: import layers, what is compiled, budgets.

Python files are read by their syntax tree, Cython files by their text. A new module of the engine
is a row of LEVELS or ORDER; reaching a budget means to cut the file at its joint, not to raise the
number.
"""

from __future__ import annotations

import ast
import importlib.machinery
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from compiled import CYTHON, PYTHON, PYTHON_RULES

import fastsmtp

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastsmtp"

# Rooms from the bottom up: the packages of fastsmtp/ and its single modules. A room imports from
# rooms of lower levels only. All of gateway/ is one room.
LEVELS = (
    {
        "_capi",
        "_counts",
        "_interpreter",
        "repeats",
        "_unbuilt",
        "blocking",
        "descriptors",
        "log_text",
        "networks",
        "reply_reader",
        "running",
        "unix_sockets",
    },
    {
        "_wire",
        "_parser",
        "_native",
        "_log",
        "_loop_thread",
        "_pace",
        "_options",
        "errors",
        "replies",
    },
    {"options", "session", "stream", "metrics", "transactions", "_sasl", "_failures"},
    {"_hooks", "_tls", "_net"},
    {"_smtp", "certificates", "hook_types", "sockets"},
    {"_connection", "server_options"},
    {"server"},
    {"__init__"},
    {"delivery"},
    {"testing", "gateway", "compat"},
    {"__main__", "pytest_plugin"},
)
# Inside of a room a module imports only from those that stand before it.
ORDER = {
    "_counts": ("tally", "families"),
    "_wire": ("grammar", "proxy_header"),
    "_options": ("names", "given", "of_session", "kinds"),
    "_sasl": ("exchange", "saslprep", "mechanisms", "scram"),
    "_net": (
        *("turns", "epoll_transport", "listener", "resolvers", "reverse_dns"),
        "timer_wheel",
    ),
    "_hooks": (
        *("callback", "binding", "stalls", "failure_log", "coroutine_driver", "tasks"),
        "lifespans",
    ),
    "_tls": (
        *("client_hello", "pem", "self_signed", "lenient_verify"),
        *("contexts", "records", "pump", "facts", "handshake_queue"),
    ),
    "_smtp": (
        *("states", "policy", "deadline", "strikes", "parameters", "warnings", "hook_replies"),
        *(
            "server_tables",
            "reply_queue",
            "tracing",
            "dialogue",
            "final_reply",
            "outcomes",
            "data",
            "mail_rcpt",
            "starttls",
            "auth",
        ),
        *("helo", "vrfy", "simple_verbs", "xclient", "greeting", "command_table", "start"),
        *("preconditions", "nobody", "protocol"),
    ),
    "_connection": (
        *("registry", "events", "server_state", "closing", "listeners", "names"),
        *("deadline_timer", "output", "stages", "proxy_stage", "greeting_stage", "tls_stage"),
        *("arrival", "connection"),
    ),
    "testing": ("authority", "received", "script", "recording", "wire"),
    "delivery": (
        *("promise", "errors", "record", "log", "sink", "gathering", "batcher", "directories"),
        "ending",
        *("body_writer", "body_files", "bodies.store", "bodies.files", "bodies.s3", "bodies"),
        *("trace", "arrival", "hook", "breaker"),
        *("handoff.availability", "handoff.dispatcher", "handoff.sink", "handoff"),
        *("nats.settings", "nats.stream", "nats.link", "nats.syncing", "nats.publisher"),
        *("nats.sink", "nats"),
        *("postgres.table", "postgres.errors", "postgres.server", "postgres.connecting"),
        *("postgres.storing", "postgres.sink", "postgres"),
        *("webhook.signing", "webhook.answers", "webhook.mime", "webhook.form", "webhook.request"),
        *("webhook.sink", "webhook"),
        *("relay.next_hop", "relay.replies", "relay.commands", "relay.connection"),
        *(
            "relay._lines",
            "relay.content",
            "relay.login",
            "relay.opening",
            "relay.pool",
            "relay.gauges",
        ),
        "relay.transaction",
        *("relay.conversations", "relay.passages", "relay.stream", "relay.sink", "relay"),
        *("spool.directory", "spool.store", "spool.salvage", "spool.keeper", "spool.shelf"),
        *("spool.handover", "spool.drainer", "spool.gauges", "spool.operations"),
        *("spool.control", "spool.sink", "spool.patient", "spool.fallback", "spool"),
        *("spool.family", "spool.strays"),
        *("maildir._commit", "maildir.box", "maildir.syncing", "maildir.large", "maildir.sink"),
        "maildir",
    ),
    "compat": (
        *("aiosmtpd.results", "aiosmtpd.session", "aiosmtpd.statuses", "aiosmtpd.checks"),
        *("aiosmtpd.smtp", "aiosmtpd.lmtp", "aiosmtpd.authenticating", "aiosmtpd.hooks"),
        *("aiosmtpd.handlers", "aiosmtpd.controller", "aiosmtpd"),
    ),
}
# The house in numbers. A change of one is a decision, not an accident.
ROOMS, ROOM_LEVELS, ROOM_ARROWS = 45, 11, 151
# These know no socket, no event loop and no clock: octets and `now` come in as arguments.
SANS_IO = {
    *("_wire", "_parser", "replies", "errors", "session", "_sasl", "_smtp"),
    *("_hooks.callback", "_hooks.binding", "_pace", "_failures"),
}
IO_MODULES = {
    *("asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading"),
    *("time", "uvloop"),
}
# Names in those modules that do not count: an exception to let through, a number to compare.
HARMLESS = {("asyncio", "CancelledError"), ("threading", "get_ident")}
# What may be imported from outside of the standard library, and where.
ENGINE_DEPENDENCIES = {"uvloop"}
GATEWAY_DEPENDENCIES = {"aiohttp", "uvloop", "click", "argon2", "msgspec", "rich", "watchfiles"}
# Libraries that one module may look for at the moment of use, because it does without them.
OPTIONAL = {
    ("_tls.self_signed", "cryptography"),
    ("_net.resolvers", "aiodns"),
    ("delivery.postgres.connecting", "asyncpg"),
    ("metrics", "prometheus_client"),
    ("delivery.bodies.s3", "obstore"),
    ("delivery.nats.link", "nats"),
    ("delivery.nats.sink", "nats"),
    ("delivery.webhook.sink", "aiohttp"),
    ("testing.authority", "cryptography"),
    ("pytest_plugin", "pytest"),
}
# Modules of the standard library that make every import of ours a good deal longer and that few
# programs need: looked for at the moment of use. That is never on the way of a command, where a
# process without descriptors could not load them.
LATE = {
    ("_options.names", "difflib"),  # for the text of an error at start
    ("_tls.lenient_verify", "ctypes"),  # for one rare pair of options, at start
    ("_tls.pem", "tempfile"),  # where a context cannot be made from memory
    ("delivery.nats.syncing", "urllib"),  # at start, where monitoring is asked
    # Once a token was refused; without it nothing is said of the reason.
    ("_sasl.mechanisms", "json"),
    # The plugin of pytest is imported by every session of pytest.
    ("testing.received", "email"),
    ("testing.recording", "tempfile"),
}

LINES_OF_A_FILE = {".py": 450, ".pyx": 900}  # the docstring at its head is not counted
HEAD = re.compile(r'\A"""(?:(?!""").)*"""\n', re.DOTALL)
# By a script: as long as the table that they are made from.
MADE = {"fastsmtp/server_options.py", "fastsmtp/_options/of_session.py"}
LINES_OF_A_FUNCTION = 40
# "file:function" -> why it is better whole. Counted without the docstring.
LONG_FUNCTIONS: dict[str, str] = {}


class Import(NamedTuple):
    """One imported name. `module` is absolute; `name` is None for `import module`.

    in_function: it does not stand at the top of its file. for_types: only type checkers read it.
    """

    line: int
    module: str
    name: str | None
    in_function: bool
    for_types: bool = False


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def cython_files() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd"), *PACKAGE.rglob("*.pxi")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """The dotted name of a file's module below fastsmtp: "server", "_smtp.dialogue".

    The `__init__` of a room is the room's name; all of gateway/ is "gateway".
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] == "gateway":
        return parts[0]
    return ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def inside(tree: ast.AST, *kinds: type[ast.AST]) -> set[ast.AST]:
    """All nodes below those of the given kinds; of conditions only below `if TYPE_CHECKING`."""
    return {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, kinds)
        if not isinstance(outer, ast.If) or ast.unparse(outer.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(outer)
    }


def python_imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    in_function = inside(tree, ast.FunctionDef, ast.AsyncFunctionDef)
    for_types = inside(tree, ast.If)
    folder = ["fastsmtp", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                where = node in in_function, node in for_types
                yield Import(node.lineno, alias.name, None, *where)
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                where = node in in_function, node in for_types
                yield Import(node.lineno, module, alias.name, *where)


CYTHON_FROM = re.compile(r"^(\s*)from\s+([\w.]+)\s+c?import\s+(\(?[^#\n]*)")
CYTHON_IMPORT = re.compile(r"^(\s*)c?import\s+([\w.]+)")


def cython_imports(path: Path) -> Iterator[Import]:
    text = path.read_text(encoding="utf-8")
    # A list of names in brackets may go over several lines: join it to one, and keep the count.
    text = re.sub(
        r"import\s*\(([^)]*)\)",
        lambda found: "import " + found[1].replace("\n", " ") + "\n" * found[1].count("\n"),
        text,
    )
    for number, line in enumerate(text.splitlines(), 1):
        if found := CYTHON_FROM.match(line):
            module = found[2]
            if module.startswith("."):
                module = ("fastsmtp" + module).rstrip(".")
            for name in found[3].split(","):
                if name.strip():
                    yield Import(number, module, name.split()[0], bool(found[1]))
        elif found := CYTHON_IMPORT.match(line):
            yield Import(number, found[2], None, bool(found[1]))


def imports_of(path: Path) -> Iterator[Import]:
    return python_imports(path) if path.suffix == ".py" else cython_imports(path)


def own_module(found: Import) -> str | None:
    """The module of ours that an import reaches, None for one from outside."""
    parts = found.module.split(".")
    if parts[0] != "fastsmtp":
        return None
    if parts[1:2] == ["gateway"]:
        return "gateway"
    if found.name is not None and is_module(PACKAGE.joinpath(*parts[1:], found.name)):
        return ".".join([*parts[1:], found.name])
    return ".".join(parts[1:]) or "__init__"


def is_module(stem: Path) -> bool:
    return stem.is_dir() or any(stem.with_suffix(ending).exists() for ending in (".py", ".pyx"))


def dependencies(*, for_types: bool = True) -> dict[str, set[str]]:
    """Which module of ours imports which others. for_types: imports of type checkers count too."""
    found: dict[str, set[str]] = {}
    for path in [*python_files(), *cython_files()]:
        targets = found.setdefault(module_of(path), set())
        imports = (found for found in imports_of(path) if for_types or not found.for_types)
        targets.update(filter(None, map(own_module, imports)))
    return {module: targets - {module} for module, targets in found.items()}


def arrows() -> set[tuple[str, str]]:
    """(room, room it imports from)."""
    return {
        (room_of(module), room_of(target))
        for module, targets in dependencies().items()
        for target in targets
        if room_of(module) != room_of(target)
    }


def level_of(room: str) -> int:
    for number, level in enumerate(LEVELS):
        if room in level:
            return number
    pytest.fail(f"fastsmtp/{room} has no row in LEVELS")


def faults(lines: list[str]) -> None:
    assert not lines, "\n" + "\n".join(lines)


def test_every_room_has_its_level_and_every_module_its_place_in_the_room() -> None:
    rooms = set().union(*LEVELS)
    modules = [module for module in dependencies() if "." in module]
    faults(
        [f"fastsmtp/{m} has no row in LEVELS" for m in dependencies() if room_of(m) not in rooms]
        + [
            f"fastsmtp/{module.replace('.', '/')} has no place in ORDER"
            for module in modules
            if module.partition(".")[2] not in ORDER.get(room_of(module), ())
        ]
        + [
            f"ORDER names {room}/{name}, which is not there"
            for room, names in ORDER.items()
            for name in names
            if f"{room}.{name}" not in modules
        ]
    )


def test_rooms_import_from_lower_levels_only() -> None:
    faults(
        [
            f"{relative(path)}:{found.line}: {room_of(module_of(path))} must not import {target},"
            " which is not on a lower level"
            for path in [*python_files(), *cython_files()]
            for found in imports_of(path)
            if (target := own_module(found)) is not None
            and room_of(target) != room_of(module_of(path))
            and level_of(room_of(target)) >= level_of(room_of(module_of(path)))
        ]
    )


def test_modules_of_a_room_import_in_one_direction() -> None:
    wrong = []
    for module, targets in dependencies().items():
        room, _, name = module.partition(".")
        order = ORDER.get(room, ())
        for target in targets:
            if room_of(target) != room or name not in order:
                continue
            other = target.partition(".")[2]
            if other not in order or order.index(other) >= order.index(name):
                wrong.append(f"fastsmtp/{room}: {name} must not import {other or room}")
    faults(wrong)


def test_the_package_has_as_many_rooms_levels_and_arrows_as_recorded() -> None:
    found = arrows()
    rooms = {room for arrow in found for room in arrow} | {room_of(m) for m in dependencies()}
    back = {(one, other) for one, other in found if level_of(one) <= level_of(other)}
    circles = circles_of(dependencies())
    print(
        f"\n{len(rooms)} rooms on {len(LEVELS)} levels, {len(dependencies())} modules,"
        f" {len(found)} arrows between rooms, {len(back)} back up, {len(circles)} circles"
    )
    assert (len(rooms), len(LEVELS), len(found)) == (ROOMS, ROOM_LEVELS, ROOM_ARROWS)
    assert not back
    assert not circles


def circles_of(graph: dict[str, set[str]]) -> list[str]:
    """Each circle of imports, as a text."""
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    return found


def test_the_engine_never_imports_delivery_the_gateway_or_its_own_test_wire() -> None:
    top = {"delivery", "gateway", "testing", "compat", "pytest_plugin", "__main__"}
    users = {"testing", "pytest_plugin"}  # of the test wire
    faults(
        [
            f"fastsmtp/{module} imports {target}"
            for module, targets in dependencies(for_types=False).items()
            for target in targets
            if room_of(target) in top
            if room_of(module) not in (top if room_of(target) not in users else users)
        ]
    )


@pytest.mark.parametrize("room", ["delivery", "gateway", "compat"])
def test_rooms_above_the_engine_import_its_public_names_only(room: str) -> None:
    faults(
        [
            f"{relative(path)}:{found.line}: {found.module}.{found.name}"
            for path in sorted((PACKAGE / room).rglob("*.py"))
            for found in python_imports(path)
            if re.search(r"^fastsmtp\b.*\._", f"{found.module}.{found.name}")
            and not found.module.startswith(f"fastsmtp.{room}.")
        ]
    )


def test_imports_stand_at_the_top_of_the_file() -> None:
    # A dependency that is not there on every machine, and what needs it in the gateway, may be
    # looked for at the moment of use. Modules of ours are never imported so to get around a level.
    faults(
        [
            f"{relative(path)}:{found.line}: import of {found.module} inside a function"
            for path in [*python_files(), *cython_files()]
            for found in imports_of(path)
            if found.in_function
            and found.module not in GATEWAY_DEPENDENCIES
            and (module_of(path), found.module.split(".")[0]) not in OPTIONAL | LATE
            and (module_of(path), own_module(found)) != ("gateway", "gateway")
        ]
    )


def test_test_files_import_from_kits_and_never_from_each_other() -> None:
    from_tests = re.compile(r"^\s*(?:from|import)\s+(?:[\w.]+\.)?(test_\w+)", re.MULTILINE)
    faults(
        [
            f"{relative(path)}: {name} is a file of tests"
            for path in sorted((ROOT / "tests").rglob("*.py"))
            for name in from_tests.findall(path.read_text(encoding="utf-8"))
        ]
    )


def test_imports_never_take_everything() -> None:
    faults(
        [
            f"{relative(path)}:{found.line}: star import of {found.module}"
            for path in [*python_files(), *cython_files()]
            for found in imports_of(path)
            if found.name == "*"
        ]
    )


def test_the_engine_needs_the_standard_library_and_uvloop_only() -> None:
    c_only = {"libc", "cpython", "cython"}
    wrong = []
    for path in [*python_files(), *cython_files()]:
        allowed = GATEWAY_DEPENDENCIES if module_of(path) == "gateway" else ENGINE_DEPENDENCIES
        for found in imports_of(path):
            root = found.module.split(".")[0]
            known = root in sys.stdlib_module_names or root in allowed | c_only | {"fastsmtp"}
            known = known or (module_of(path), root) in OPTIONAL
            if not known:
                wrong.append(f"{relative(path)}:{found.line}: {root} is no dependency of ours")
    faults(wrong)


def test_rules_and_parsing_know_no_socket_no_loop_and_no_clock() -> None:
    faults(
        [
            f"{relative(path)}:{found.line}: {module_of(path)} imports {found.module}"
            for path in [*python_files(), *cython_files()]
            for found in imports_of(path)
            if {module_of(path), room_of(module_of(path))} & SANS_IO
            and found.module.split(".")[0] in IO_MODULES
            and (found.module, found.name) not in HARMLESS
        ]
    )


def test_no_module_reaches_for_the_underscored_names_of_another() -> None:
    wrong = []
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = set()
        for found in imports_of(path):
            if own_module(found) is None or found.name is None:
                continue
            if own_module(found) != found.module.removeprefix("fastsmtp").lstrip("."):
                modules.add(found.name)
            elif found.name.startswith("_"):
                wrong.append(f"{relative(path)}:{found.line}: {found.module}.{found.name}")
        wrong += [
            f"{relative(path)}:{node.lineno}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and re.match(r"_(?!_)", node.attr)
        ]
    faults(wrong)


def test_cython_sources_have_no_second_namespace_and_no_directives_of_their_own() -> None:
    forbidden = re.compile(
        r"^\s*(?:(include)\s+['\"]|(DEF)\s+\w|#\s*(cython):\s*\w|#\s*(distutils):)"
    )
    wrong = [f"{relative(path)}: .pxi" for path in cython_files() if path.suffix == ".pxi"]
    for path in [*cython_files(), *(PACKAGE / source for source in PYTHON)]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if forbidden.match(line):
                wrong.append(f"{relative(path)}:{number}: {line.strip()}")
    faults(wrong)


def test_setup_compiles_every_source_in_cython_and_nothing_that_is_not_there() -> None:
    written = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.pyx")}
    faults([f"fastsmtp/{name} is not in setup.py's CYTHON" for name in written - {*CYTHON}])
    listed = [PACKAGE / source for source in [*CYTHON, *PYTHON]]
    faults(
        [f"{relative(path)} is in setup.py and not there" for path in listed if not path.exists()]
    )


def test_compiled_python_has_its_types_beside_it_and_no_types_stand_alone() -> None:
    listed = [PACKAGE / source for source in [*CYTHON, *PYTHON]]
    typed = {path.with_suffix(".pxd") for path in listed if path.suffix == ".py"}
    faults([f"{relative(path)} is missing" for path in sorted(typed) if not path.exists()])
    owners = {path.with_suffix(".pxd") for path in listed}
    owners.add(PACKAGE / "_capi.pxd")  # declarations of another's functions
    alone = [path for path in cython_files() if path.suffix == ".pxd" and path not in owners]
    faults([f"{relative(path)}: nothing beside it is compiled" for path in alone])


def test_python_means_the_same_when_it_is_compiled() -> None:
    as_python_has_it = {
        "annotation_typing": False,
        "boundscheck": True,
        "cdivision": False,
        "initializedcheck": True,
        "wraparound": True,
    }
    assert as_python_has_it.items() <= PYTHON_RULES.items()


def test_no_compiled_module_hides_a_newer_source() -> None:
    wrong = []
    for ending in importlib.machinery.EXTENSION_SUFFIXES:
        for built in PACKAGE.rglob(f"*{ending}"):
            module = built.name.partition(".")[0]
            sources = {*built.parent.glob(f"{module}.p*")}
            names = {path.relative_to(PACKAGE).as_posix() for path in sources}
            if not names & {*CYTHON, *PYTHON}:
                wrong.append(f"{relative(built)}: no such module is compiled, remove the file")
            for path in sources:
                if path.suffix != ".pyi" and path.stat().st_mtime > built.stat().st_mtime:
                    wrong.append(f"{relative(path)} was changed after it was compiled: make build")
    faults(wrong)


def test_every_compiled_module_has_its_stub() -> None:
    faults(
        [
            f"{relative(path)} has no .pyi"
            for path in cython_files()
            if path.suffix == ".pyx" and not path.with_suffix(".pyi").exists()
        ]
    )


def test_the_version_is_defined_in_one_place_that_pyproject_names() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fastsmtp.__version__"}
    version = re.compile(rf"['\"]{re.escape(fastsmtp.__version__)}['\"]")
    found = [path for path in python_files() if version.search(path.read_text("utf-8"))]
    assert found == [PACKAGE / "__init__.py"]


def test_files_stay_within_their_budget() -> None:
    wrong = []
    for path in [*python_files(), *cython_files()]:
        text = path.read_text(encoding="utf-8")
        lines = len(HEAD.sub("", text).splitlines())
        budget = LINES_OF_A_FILE.get(path.suffix)
        if budget is not None and lines > budget and relative(path) not in MADE:
            wrong.append(f"{relative(path)}: {lines} lines, the budget is {budget}")
    faults(wrong)


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function, its docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            last = node.end_lineno or node.lineno
            length = last - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield node.name, length


CYTHON_FUNCTION = re.compile(
    r"^(\s*)(?:async\s+)?(?:cdef|cpdef|def)\s+(?!class\b)[^=\n]*?(\w+)\s*\("
)
DOCSTRING = re.compile(r'^\s*r?"""(?:(?!""").)*"""\s*$', re.DOTALL | re.MULTILINE)


def cython_functions(path: Path) -> Iterator[tuple[str, int]]:
    """The same by text: a function ends before a line that is indented no deeper than its first."""
    lines = DOCSTRING.sub("", path.read_text(encoding="utf-8")).splitlines()
    for start, line in enumerate(lines):
        if not (found := CYTHON_FUNCTION.match(line)):
            continue
        length = 1
        for number, text in enumerate(lines[start + 1 :], 2):
            # A signature over several lines ends with a bracket at the indentation of its first.
            if re.match(r"\s*\S", text) and not text.lstrip().startswith(")"):
                if len(text) - len(text.lstrip()) <= len(found[1]):
                    break
                length = number
        yield found[2], length


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Each function as LONG_FUNCTIONS names it, and its length."""
    functions = python_functions if path.suffix == ".py" else cython_functions
    for name, length in functions(path):
        yield f"{path.relative_to(PACKAGE).as_posix()}:{name}", length


def test_functions_stay_short() -> None:
    faults(
        [
            f"{name}: {length} lines, the budget is {LINES_OF_A_FUNCTION}"
            for path in [*python_files(), *cython_files()]
            for name, length in functions_of(path)
            if length > LINES_OF_A_FUNCTION and name not in LONG_FUNCTIONS
        ]
    )


def test_exceptions_from_the_budget_are_all_needed() -> None:
    long = {
        name
        for path in [*python_files(), *cython_files()]
        for name, length in functions_of(path)
        if length > LINES_OF_A_FUNCTION
    }
    faults(sorted(LONG_FUNCTIONS.keys() - long))

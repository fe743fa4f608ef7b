"""Compiles the extension modules. Every other fact about the project is in or named in
pyproject.toml.

Four switches are read from the environment. Each of the first three builds into a folder of its
own, so that no build links what another one compiled:

FASTSMTP_DEBUG=1      no optimisation, C assertions, the sources' invariant checks, annotated HTML
FASTSMTP_COVERAGE=1   line tracing for the plugin Cython.Coverage of coverage.py, `nogil` included
FASTSMTP_SANITIZE=1   ASan and UBSan with the checks of the debug build; any value but 1 is given
                      to -fsanitize as it is (a fuzzer: "address,undefined,fuzzer-no-link")
FASTSMTP_FREE_THREADING=1  declares that the modules need no GIL. No suite has passed without one
                      yet, so an interpreter without a GIL turns it on when it imports them
"""

import os
import sys
from glob import glob

# pip reads `requires-python`, which says nothing about other interpreters; setup.py alone does not.
if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
    sys.exit(
        "fastsmtp-engine needs CPython 3.11 or newer, and this is "
        + "{} {}.{}: {}".format(sys.implementation.name, *sys.version_info[:2], sys.executable)
    )

import setuptools
from setuptools import Extension, setup

# `make` calls this file itself, with what the environment has: an environment of Python 3.11 begins
# with 65, which cannot read pyproject.toml. pip installs what `build-system` asks for.
if int(setuptools.__version__.partition(".")[0]) < 77:
    sys.exit(
        f"setuptools is {setuptools.__version__} here, and 77 or newer is needed to build in place:"
        " pip install -e '.[test]'"
    )

from Cython.Build import cythonize
from Cython.Compiler import Options

DEBUG = os.environ.get("FASTSMTP_DEBUG", "0") not in ("", "0")
COVERAGE = os.environ.get("FASTSMTP_COVERAGE", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTSMTP_SANITIZE", "0")
SANITIZE = {"0": "", "1": "address,undefined"}.get(SANITIZE, SANITIZE)
CHECKED = DEBUG or bool(SANITIZE)
FREE_THREADING = os.environ.get("FASTSMTP_FREE_THREADING", "0") not in ("", "0")

MODE = "coverage" if COVERAGE else "sanitize" if SANITIZE else "debug" if DEBUG else "release"
MODE += "-without-gil" if FREE_THREADING else ""

# The parser is Cython. What runs for every command is Python whose types stand in a .pxd beside it:
# the same file is linted and type-checked as Python, and compiled to C. The .py stays in the wheel,
# for tracebacks; Python prefers the compiled module. tests/compiled.py reads both lists.
CYTHON = [
    "_parser.pyx",
    "_wire/grammar.pyx",
    "_wire/proxy_header.pyx",
    "_net/epoll_transport.pyx",
    "_native.pyx",
    "_hooks/coroutine_driver.pyx",
    "_tls/records.pyx",
    "_net/turns.pyx",
    "delivery/maildir/_commit.pyx",
    "delivery/relay/_lines.pyx",
    "_counts/tally.pyx",
]
PYTHON = [
    "_tls/client_hello.py",
    "_smtp/deadline.py",
    "_connection/registry.py",
    "_connection/events.py",
    "_connection/server_state.py",
    "_connection/names.py",
    "_connection/stages.py",
    "_connection/greeting_stage.py",
    "_connection/deadline_timer.py",
    "_connection/output.py",
    "_connection/arrival.py",
    "_connection/connection.py",
    "_smtp/final_reply.py",
    "_pace.py",
    "_smtp/data.py",
    "_smtp/strikes.py",
    "_smtp/protocol.py",
    "_smtp/preconditions.py",
    "_smtp/reply_queue.py",
    "_smtp/outcomes.py",
    "transactions.py",
    "log_text.py",
    "_smtp/dialogue.py",
    "_hooks/binding.py",
    "_hooks/callback.py",
    "_smtp/policy.py",
    "_smtp/server_tables.py",
    "_connection/tls_stage.py",
    "_smtp/states.py",
    "_net/timer_wheel.py",
    "_tls/pump.py",
    "_smtp/mail_rcpt.py",
    "_smtp/starttls.py",
    "_smtp/simple_verbs.py",
    "replies.py",
    "session.py",
    "stream.py",
    "delivery/record.py",
    "delivery/log.py",
    "delivery/trace.py",
    "delivery/arrival.py",
    "delivery/handoff/dispatcher.py",
]

# What has no meaning on Windows is not compiled there.
POSIX = {"delivery/maildir/_commit.pyx"}

# A `# cython:` header in a source would win over these, so none has one
# (tests/project/test_layout.py).
DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": FREE_THREADING,
    "auto_pickle": False,
    "autotestdict": False,
    "cdivision": True,
    "wraparound": False,
    # They guard the indexing of objects. Pointers are the part of the invariant macro and of ASan.
    "boundscheck": CHECKED,
    "initializedcheck": CHECKED,
    "linetrace": COVERAGE,
    "warn.unused": True,
    "warn.unused_arg": True,
    "warn.maybe_uninitialized": True,
}
# A .py file means what Python says it means, compiled or not.
PYTHON_RULES = {
    "annotation_typing": False,  # annotations are for mypy; what C sees stands in the .pxd
    "boundscheck": True,
    "cdivision": False,
    "initializedcheck": True,
    "wraparound": True,
    "warn.unused_arg": False,
}
Options.warning_errors = True
# Of `X | None` at module level gcc believes that it reads the digits of an int out of None, for it
# does not see through the type check in Cython's helper.
QUIET = [] if sys.platform == "win32" else ["-Wno-array-bounds"]


def compiler_settings() -> tuple[list[str], list[str], list[tuple[str, str | None]]]:
    """Return the compiler's flags, the linker's flags and the macros of this build."""
    macros: list[tuple[str, str | None]] = []
    link: list[str] = []
    if sys.platform == "win32":
        flags: list[str] = []  # MSVC: what setuptools asks for by itself is a release build
    elif SANITIZE:
        flags = ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
        flags.append("-fno-sanitize-recover=undefined")
        link = [f"-fsanitize={SANITIZE}"]
    elif DEBUG or COVERAGE:
        flags = ["-O0", "-g", "-UNDEBUG"]
    else:
        flags = ["-O2", "-g0"]
    if CHECKED:
        macros.append(("FASTSMTP_DEBUG", "1"))
    if COVERAGE:
        macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
        macros.append(("CYTHON_USE_SYS_MONITORING", "0"))
    return flags, link, macros


def extensions() -> list[Extension]:
    """Return the extension modules, cythonized for this build."""
    cython = [source for source in CYTHON if os.name == "posix" or source not in POSIX]
    return compiled(cython, DIRECTIVES) + compiled(PYTHON, DIRECTIVES | PYTHON_RULES, QUIET)


def compiled(
    sources: list[str], directives: dict[str, object], more_flags: list[str] | None = None
) -> list[Extension]:
    """Return the extensions of `sources`, cythonized under `directives`."""
    flags, link, macros = compiler_settings()
    flags += more_flags or []
    modules = [
        Extension(
            "fastsmtp." + source.partition(".")[0].replace("/", "."),
            [f"fastsmtp/{source}"],
            include_dirs=["fastsmtp"],
            depends=sorted(glob("fastsmtp/**/*.h", recursive=True)),
            define_macros=macros,
            extra_compile_args=flags,
            extra_link_args=link,
        )
        for source in sources
    ]
    # Cython.Coverage looks for the C file beside the source; every other build keeps it out of the
    # package. Cython compares times, not directives: a C file beside the source is written anew.
    built: list[Extension] = cythonize(
        modules,
        build_dir=None if COVERAGE else f"build/cython-{MODE}",
        force=COVERAGE,
        annotate=DEBUG,
        compiler_directives=directives,
    )
    return built


# Modules are compiled side by side, as many as there are cores.
setup(ext_modules=extensions(), options={"build_ext": {"parallel": True}})

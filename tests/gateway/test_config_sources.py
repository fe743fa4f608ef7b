"""Where the configuration comes from, which source weighs more, and what is wrong in each."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsmtp.delivery import Promise
from fastsmtp.gateway.config import SCHEMA, ConfigError, Loaded, Setting, load, shown_values
from fastsmtp.gateway.config.sinks import TABLES
from fastsmtp.gateway.config.text import toml
from fastsmtp.gateway.config.toml_file import MAX_FILE, find_file, lines_of, read_file
from fastsmtp.gateway.config.values import listed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file that only its owner can read."""
    path = tmp_path / "fastsmtp.toml"
    path.touch(0o600)
    return path


def refused(file: Path, text: str | bytes) -> str:
    """The message about a file with this text, without the file's path."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load({}, {}, str(file))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    return message.removeprefix(str(file)).strip()


def refused_texts(flags: dict[str, Any], **environment: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(flags, environment, os.devnull)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a value in each of the three ways ---

PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
# A comma or a backslash in an item is what the environment escapes.
PATHS = st.text("abc,\\=. é\"'#", min_size=1, max_size=12).map(lambda name: f"/x/{name.strip()}y")
NETWORKS = st.sampled_from(["unix", "192.0.2.0/24", "10.0.0.1", "2001:db8::/32", "::1"])
DOMAINS = st.sampled_from(["a.example", "B.example", "bücher.example", "[192.0.2.1]"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "admin": st.sampled_from(["", "9100", "127.0.0.1:9100", "[::1]:9100", "unix:/run/a,b.sock"]),
    "listen": st.lists(
        st.sampled_from(["0.0.0.0:25", "[::]:25", "lmtp:/run/a,b.sock", "smtp:/run/c\\d.sock"]),
        min_size=1,
        unique=True,
    ),
    "maildir": PATHS,
    "require": st.sampled_from([each.value for each in Promise]),
    "on_unavailable": st.just("refuse"),
    "handoff_deadline": st.sampled_from([1, 2.5, 30]),
    "spool": PATHS,
    "spool_quota": st.sampled_from(["1G", "10m", 12345]),
    "size": st.sampled_from(["1G", "10m", "0", 0, 12345]),
    "domains": st.lists(DOMAINS),
    "recipients": st.lists(st.sampled_from(["anne@a.example", "s-*@b.example", "ü@a.example"])),
    "discard": st.lists(st.sampled_from(["noreply@a.example", '"a,b"@a.example'])),
    "reject": st.lists(st.sampled_from(["*.b.example", "x@a.example"])),
    "auth_methods": st.lists(st.sampled_from(["plain", "LOGIN"]), min_size=1),
    "workers": st.sampled_from([0, 1, 4, "auto"]),
    "log_file": PATHS,
    "log_format": st.sampled_from(["text", "logfmt", "json"]),
    "trace": st.lists(NETWORKS),
    "pipelining_exclusions": st.lists(NETWORKS),
    "user": st.sampled_from(["", "fastsmtp", "1000"]),
    "umask": st.sampled_from(["", "027", "0077", "7"]),
    "bare_newline": st.sampled_from(["reject", "normalize", "accept"]),
    "disabled_commands": st.lists(st.sampled_from(["VRFY", "help"])),
    "lenient_address_parsing": st.sampled_from([True, False, "common"]),
    "max_command_length": st.integers(512, 65536),
    "future_release_max": st.integers(1, 999_999_999),
    "min_version": st.sampled_from(["TLSv1", "TLSv1.2", "TLSv1.3"]),
    "max_version": st.sampled_from(["", "TLSv1.3"]),
    "resolver": st.sampled_from(["", "aiodns", "system"]),
    "bare_newline_exclusions": st.lists(NETWORKS),
    "allow_bare_lf_commands": st.lists(NETWORKS),
    "use_proxy": st.lists(NETWORKS),
    "use_xclient": st.lists(NETWORKS),
    "use_xforward": st.lists(NETWORKS),
}
USUAL: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(0, 1000),
    float: st.one_of(st.integers(1, 1000), st.floats(0.001, 1e6)),
    str: PLAIN,
}
# What needs another key, or is for programs. `certificates` and sinks have tests of their own.
NOT_ALONE = {
    *("application", "certificates", "cert", "client_ca", "group", "key", "key_password"),
    *("reject_unauthorized", "reload", "users"),
    *("deliver", *TABLES),
}
ALONE = [row for row in SCHEMA.values() if row.key not in NOT_ALONE]


def values_of(row: Setting) -> st.SearchStrategy[Any]:
    if row.key not in VALUES:
        assert row.in_options or row.kind.type in (bool, int), f"{row.key} has no row in VALUES"
        return USUAL[row.kind.type]
    return VALUES[row.key]


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_environment(value: Any) -> str:
    if not isinstance(value, list):
        return as_text(value)
    return " , ".join(item.replace("\\", "\\\\").replace(",", "\\,") for item in value)


def as_flag(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value) or ("",)
    return value if isinstance(value, bool) else as_text(value)


@pytest.mark.parametrize("row", ALONE, ids=lambda row: row.key)
def test_a_value_is_the_same_from_file_environment_and_flag(
    row: Setting, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("config") / "f.toml"

    @settings(max_examples=20)
    @given(values_of(row))
    def all_three(value: Any) -> None:
        file.write_text(f"{row.key} = {toml(value)}\n", encoding="utf-8")
        of_file = load({}, {}, str(file))
        of_environment = load({}, {row.variable: in_environment(value)}, os.devnull)
        # A flag of the command line for false and true is never text.
        flag = value if row.kind.type is bool else as_flag(value)
        of_flag = load({row.key: flag}, {}, os.devnull)
        assert of_file.config == of_environment.config == of_flag.config
        assert [each.origins[row.key] for each in (of_file, of_environment, of_flag)] == [
            f"{file} line 1",
            f"environment {row.variable}",
            f"flag {row.flag}",
        ]

    all_three()


def test_certificates_are_the_same_from_file_environment_and_flag(file: Path) -> None:
    file.write_text(
        'cert = "/x/mx.pem"\n[certificates]\n"*.A.example" = { cert = "/x/a.pem" }\n'
        '"bücher.example" = { cert = "/x/b.pem", key = "/x/b.key" }\n'
    )
    items = ("*.A.example=/x/a.pem", "bücher.example=/x/b.pem:/x/b.key")
    both = {"FASTSMTP_CERT": "/x/mx.pem", "FASTSMTP_CERTIFICATES": ",".join(items)}
    found = load({}, {}, str(file)).config
    assert found.certificates == {
        "*.a.example": {"cert": "/x/a.pem"},
        "xn--bcher-kva.example": {"cert": "/x/b.pem", "key": "/x/b.key"},
    }
    assert load({}, both, os.devnull).config == found
    assert load({"cert": "/x/mx.pem", "certificates": items}, {}, os.devnull).config == found


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip)))
def test_any_list_can_be_written_in_a_variable(items: list[str]) -> None:
    items = [item for item in items if item]
    assert listed(in_environment(items)) == items


def test_flags_weigh_more_than_the_environment_and_that_more_than_the_file(file: Path) -> None:
    file.write_text('size = "1M"\nbanner = "file"\nmaildir = "/file"\n')
    environment = {"FASTSMTP_SIZE": "2M", "FASTSMTP_BANNER": "environment"}
    found = load({"size": "3M"}, environment, str(file))
    assert (found.values["size"], found.origins["size"]) == ("3M", "flag --size")
    assert found.config.options == {"size": 3 << 20, "banner": "environment"}
    assert found.config.maildir == "/file"
    assert found.origins["maildir"] == f"{file} line 3"
    assert found.origins["domains"] == "default"


def test_a_list_replaces_that_of_a_lighter_source_and_an_empty_one_too(file: Path) -> None:
    file.write_text('domains = ["a.example", "b.example"]\n')
    assert load({"domains": ("c.example",)}, {}, str(file)).config.domains == {"c.example"}
    assert not load({"domains": ("",)}, {}, str(file)).config.domains
    assert not load({}, {"FASTSMTP_DOMAINS": ""}, str(file)).config.domains


def test_a_wrong_value_is_an_error_also_where_a_heavier_one_hides_it(file: Path) -> None:
    file.write_text("size = true\n")
    with pytest.raises(ConfigError, match="line 1: size"):
        load({"size": "1M"}, {}, str(file))
    assert "FASTSMTP_SIZE" in refused_texts({"size": "1M"}, FASTSMTP_SIZE="lots")


def test_paths_in_a_file_are_relative_to_the_working_directory_as_in_flags(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "work").mkdir()
    monkeypatch.chdir(file.parent / "work")
    file.write_text('maildir = "mail"\n')
    assert load({}, {}, str(file)).config.maildir == str(file.parent / "work" / "mail")


# --- again ---


def test_again_reads_the_same_sources_and_tells_what_has_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('size = "1M"\nbanner = "one"\n')
    first = load({"max_errors": "7"}, {"FASTSMTP_BANNER": "two"}, str(file))
    monkeypatch.setenv("FASTSMTP_BANNER", "another one")
    file.write_text('size = "2M"\nbanner = "three"\nmax_errors = 8\nmaildir = "/m"\n')
    second = first.again()
    assert second.config.options == {"size": 2 << 20, "banner": "two", "max_errors": 7}
    assert set(first.changed(second)) == {"size", "maildir"}
    assert first.config.options["size"] == 1 << 20
    assert not second.changed(second.again())


def test_again_refuses_a_file_that_has_become_wrong_and_reads_a_mended_one(file: Path) -> None:
    file.write_text('size = "1M"\n')
    first = load({}, {}, str(file))
    file.write_text("size = \n")
    with pytest.raises(ConfigError, match="line 1, column 8"):
        first.again()
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        first.again()
    file.write_text('size = "3M"\n')
    assert first.again().config.options["size"] == 3 << 20


def test_a_config_cannot_be_changed() -> None:
    config = load({}, {}, os.devnull).config
    with pytest.raises(AttributeError):
        config.maildir = "/other"  # type: ignore[misc]  # that it is refused is what is tested
    with pytest.raises(TypeError):
        config.options["size"] = 1  # type: ignore[index]  # as above


# --- which file ---


def test_the_first_default_file_is_that_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "etc.toml"
    places = ("fastsmtp.toml", str(there))
    monkeypatch.setattr("fastsmtp.gateway.config.toml_file.DEFAULT_FILES", places)
    monkeypatch.chdir(tmp_path)
    assert load({}, {}).file == ""
    there.write_text("size = 1\n")
    assert load({}, {}).file == str(there)
    Path("fastsmtp.toml").write_text("size = 2\n")
    found = load({}, {})
    assert (found.file, found.values["size"]) == (str(tmp_path / "fastsmtp.toml"), 2)
    named = tmp_path / "named.toml"
    named.write_text("size = 3\n")
    assert load({}, {"FASTSMTP_CONFIG": "named.toml"}).values["size"] == 3
    assert load({}, {"FASTSMTP_CONFIG": "named.toml"}, str(there)).values["size"] == 1


def test_for_a_program_the_file_in_etc_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "etc.toml"
    there.write_text('maildir = "/m"\n')
    places = ("fastsmtp.toml", str(there))
    monkeypatch.setattr("fastsmtp.gateway.config.toml_file.DEFAULT_FILES", places)
    monkeypatch.chdir(tmp_path)
    assert load({"application": "app:server"}, {}).file == ""
    assert load({}, {"FASTSMTP_APPLICATION": "app:server"}).file == ""
    Path("fastsmtp.toml").write_text('listen = ["26"]\n')
    assert load({"application": "app:server"}, {}).config.listeners[0].port == 26


def test_a_file_that_another_user_has_put_into_the_working_directory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fastsmtp.toml").write_text("size = 1\n")
    owner = os.stat("fastsmtp.toml").st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:
        assert find_file() == str(tmp_path / "fastsmtp.toml")
        os.chown("fastsmtp.toml", 12345, -1)
    with pytest.raises(ConfigError, match=r"belongs to another user .* --config"):
        find_file()


@pytest.mark.parametrize("path", ["", "missing.toml", "a\0b", "."])
def test_a_file_that_is_named_and_cannot_be_read_is_an_error(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        load({}, {}, path)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        load({}, {"FASTSMTP_CONFIG": path.replace("\0", "")})


def test_a_file_that_every_user_can_change_is_refused(file: Path) -> None:
    file.write_text("size = 1\n")
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="every user can change it: chmod o-w"):
        load({}, {}, str(file))
    file.chmod(0o660)
    assert load({}, {}, str(file)).values["size"] == 1


def test_a_fifo_and_a_file_without_end_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="FIFO"):
        load({}, {}, str(tmp_path / "fifo"))
    with pytest.raises(ConfigError, match="too large"):
        load({}, {}, "/dev/zero")
    big = tmp_path / "big"
    big.touch(0o600)
    os.truncate(big, MAX_FILE + 1)
    with pytest.raises(ConfigError, match="too large"):
        load({}, {}, str(big))


def test_a_password_in_a_file_that_every_user_can_read_is_refused(file: Path) -> None:
    file.write_text('cert = "c.pem"\nkey_password = "secret"\n')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="every user can read it: chmod o-r it") as error:
        load({}, {}, str(file))
    assert "secret" not in str(error.value)


# --- what is wrong in a file ---

TABLE = "[certificates.'a.example']\ncert = 'x'\n"
WRONG = {
    "max_client = 1": "line 1: there is no key 'max_client', did you mean max_clients?",
    "max-clients = 1": "line 1: there is no key 'max-clients', did you mean max_clients?",
    "domain = []": "line 1: there is no key 'domain', did you mean domains?",
    "port = 25": "line 1: there is no key 'port', did you mean listen?",
    "xyzzy = 25": "line 1: there is no key 'xyzzy'",
    "lmtp = true": "line 1: there is no key 'lmtp': it is part of listen",
    "sni_options = {}": "line 1: there is no key 'sni_options': it is part of certificates",
    "scram_secret = 1": "line 1: scram_secret cannot be set: SCRAM needs",
    "[tls]\nciphers = ''": "line 1: there is no key 'tls'",
    "\n# x\nsize = true": "line 3: size: it takes octets such as 500000",
    "max_errors = '5'": "max_errors: it takes a whole number, 0 for no limit, not '5' (text)",
    "max_errors = 5.5": "not 5.5 (a number)",
    "max_errors = -1": "not -1 (a number)",
    "max_errors = 99999999999": "not 99999999999 (a number): the largest is 2147483647",
    "max_errors = []": "not a list",
    "max_errors = {}": "not a table",
    "max_errors = 2026-11-30": "not a date or time",
    "verbose = 1": "line 1: verbose: it takes true or false, not 1 (a number)",
    "verbose = 'yes'": "it takes true or false, not 'yes' (text)",
    "socket_timeout = 0": "not 0.0 (a number): a deadline cannot be switched off",
    "socket_timeout = inf": "not inf (a number): not a finite number",
    "domains = 'a.example'": "line 1: domains: it takes a list of domains, not 'a.example' (text)",
    "domains = ['a.example',\n 5]": "line 1: domains: it takes a list of domains, not 5 (a number)",
    "domains = ['a b']": "line 1: domains: 'a b' is not a domain",
    "use_proxy = ['10.0.0.1/8']": "not a list: '10.0.0.1/8' has host bits set",
    "bare_newline = 'no'": "it takes 'reject', 'normalize' or 'accept', not 'no' (text)",
    "disabled_commands = ['VRYF']": "'VRYF' is not known, did you mean 'VRFY'?",
    "auth_methods = ['CRAM-MD5']": "line 1: auth_methods: it takes PLAIN, LOGIN or both",
    "workers = 'many'": "at most 1024, or 'auto', not 'many' (text)",
    "workers = -1": "at most 1024, or 'auto', not -1",
    "umask = 27": "umask: it takes octal digits in quotes, such as '027', not 27 (a number)",
    "umask = '99'": "octal digits",
    "user = 'a b'": "line 1: user: it takes a name or a number as text, not 'a b' (text)",
    "spool_quota = 0": "line 1: spool_quota: a spool without room takes no mail",
    'banner = "a\\u0000"': "control or non-ASCII",
    "listen = []": "line 1: listen: at least one address is needed",
    "listen = ['25', '25']": "line 1: listen: 127.0.0.1:25 is given twice",
    "listen = ['x']": "line 1: listen: 'x' is not an address to listen on",
    "listen = [5]": "line 1: listen: it takes a list of addresses",
    "[[listen]]\n\nadress = '25'": "line 1: listen: it needs address",
    "[[listen]]\naddress = 25": "line 1: listen: it needs address",
    "[[listen]]\naddress = '25'\n\n[[listen]]\naddress = '26'\nsiez = 5": "line 6: listen: there is"
    " no key 'siez', did you mean size?",
    "[[listen]]\naddress = '25'\n\nsize = 'x'": "line 4: listen: size: it takes octets",
    "[[listen]]\naddress = '25'\nmaildir = 'x'": "line 3: listen: there is no key 'maildir'",
    "[[listen]]\naddress = '25'\nlmtp = true": "line 3: listen: there is no key 'lmtp': it is part",
    "size = '1M'\nlisten = ['lmtp:24']\nhide_pipelining = true": "line 2: listen: lmtp:127.0.0.1:",
    "cert = 'c'\n[certificates.'a b']\ncert = 'x'": "line 2: certificates: 'a b': 'a b' is not",
    "cert = 'c'\n[certificates.'[192.0.2.1]']\ncert = 'x'": "clients send names, never addresses",
    "cert = 'c'\n[certificates.'a.example']\nkey = 'x'": "certificates: 'a.example': it needs cert",
    "cert = 'c'\n[certificates.'a.example']\n\ncert = 'x'\nciphes = 'x'": "line 5: "
    "certificates: 'a.example': there is no key 'ciphes', did you mean ciphers?",
    "cert = 'c'\n[certificates]\n'a.example' = 'x'": "line 3: certificates: 'a.example': it takes",
    f"cert = 'c'\n{TABLE}{TABLE.replace('a.', 'A.')}": "line 4: "
    "certificates: 'A.example': it is given twice",
    "[certificates.'a.example']\ncert = 'x'": "line 1: certificates: it needs cert",
    "key = 'x'": "line 1: key: it needs cert",
    "group = 'mail'": "line 1: group: it needs user",
    "user = 'mail'\nstay_root = true": "line 2: stay_root: the user is mail: leave one of them out",
    "\nreject_unauthorized = true": "line 2: reject_unauthorized: it needs client_ca",
    "listen = ['submission://h']": "line 1: listen: submission://h:587 needs users",
    "reload = true": "line 1: reload: there is nothing to reload without an application",
    "application = 'a:b'\nmaildir = 'x'": "line 2: maildir: it is for the gateway, not for a:b",
    "application = 'a:b'\n[[listen]]\naddress = '25'\nsize = 1": "line 2: listen: a:b has the",
    "size = '1M'\nsize = '2M'": "is not TOML: line 2, column 12: Cannot overwrite a value",
    "a = [\n": "is not TOML: end of document",
    "size = 1M": "is not TOML: line 1, column 9",
    "= 1": "is not TOML: line 1, column 1",
    "\n\nbanner = \"x\ny\"": "is not TOML: line 3, column 12",
    f"a = {'[' * 5000}": "nested",
}  # fmt: skip


@pytest.mark.parametrize(
    "text", WRONG, ids=lambda text: text[:40].encode("unicode_escape").decode()
)
def test_what_is_wrong_in_a_file_is_told_in_one_line(file: Path, text: str) -> None:
    assert WRONG[text] in refused(file, text)


def test_a_file_that_is_not_utf8_is_refused_with_the_line(file: Path) -> None:
    assert "line 3 is not UTF-8" in refused(file, b"a = 1\n\n# \xff\n")


def test_a_wrong_password_is_never_told(file: Path) -> None:
    message = refused(file, 'cert = "x"\nkey_password = ["xyzzy"]\n')
    assert "line 2: key_password: it takes text, not this text" in message


# --- the lines of keys ---

LINES = '''
# size = 1
listen = [ # not = a key
  "25", # ]
  """lmtp:\\
  24""",
]
banner = """
name = "no"
# no
"""
"helo_response" = 'x # [y] "z"' # max_errors = 1
use_proxy = [
]

[ certificates . "a.example" ] # [x]
  cert  =  '\\\'
ciphers='a'

[[ x.y ]]
z.w = {a = 1, b = [ {c=2} ]}
[[x.y]]
z.w = """""""" # "
last = 1'''


def test_every_key_of_a_file_is_found_at_its_line(file: Path) -> None:
    text = LINES.replace("'\\\\\\''", "'\\'")
    tomllib.loads(text)
    file.write_text(text)
    lines = read_file(str(file)).lines
    rows = text.splitlines()

    def row(*path: str | int) -> str:
        return rows[lines[path] - 1]

    assert row("listen").startswith("listen = [")
    assert row("banner") == 'banner = """'
    assert ("name",) not in lines
    assert row("helo_response").startswith('"helo_response" =')
    assert row("use_proxy") == "use_proxy = ["
    assert row("certificates", "a.example").startswith("[ certificates")
    assert row("certificates", "a.example", "cert").strip().startswith("cert  =")
    assert row("certificates", "a.example", "ciphers") == "ciphers='a'"
    assert row("x", "y", 0, "z", "w").startswith("z.w = {a")
    assert row("x", "y", 1, "z", "w").startswith('z.w = """')
    assert row("x", "y", 1, "last") == "last = 1"
    assert row("x") == "[[ x.y ]]"


# Statements of a document; # stands for a number, so that no key comes twice.
STATEMENTS = st.sampled_from(
    [
        *[
            "\n",
            "# x = 1 [y]\n",
            "  \t\n",
            "[t#]\n",
            "[[u]] # [v]\n",
            '[ "w#" . x ]\n',
            "[[z#.y]]\n",
        ],
        *[
            "k# = 1\n",
            "  k#=true# x\n",
            "'k#' = [ # ]\n  1,\n\n 2 ]\n",
            "k#.a.b = {c = [1], d = '{'}\n",
        ],
        *[
            'k# = """\nk = 1\n[x]\n\\"""" # "\n',
            "k# = '''\n\\\n'''\n",
            '"k#" = "\\"#[="\n',
            "k# = '#\"'\n",
        ],
        *[
            "k# = 1979-05-27 07:32:00Z\n",
            "k# = [[1], [2,\n[3]]]\n",
            'k# = """"a"""""\n',
            "\"k# é\" = ''\n",
        ],
    ]
)


@given(st.lists(STATEMENTS, max_size=15))
def test_every_key_of_any_document_is_found_at_its_line(statements: list[str]) -> None:
    text, expected = "", {}
    for number, statement in enumerate(statements):
        name = re.match(r"\W*([ktwz])#", statement)
        if name is not None:
            expected[f"{name[1]}{number}"] = text.count("\n") + 1
        text += re.sub(r"(?<=[ktwz])#", str(number), statement)
    tomllib.loads(text)
    found: dict[str, int] = {}
    for path, line in lines_of(text):
        for part in path:
            key = str(part).removesuffix(" é")
            found[key] = min(line, found.get(key, line))
    assert {key: found[key] for key in expected} == expected


def test_lines_are_counted_with_line_ends_of_windows_too(file: Path) -> None:
    file.write_bytes(b"size = 1\r\n\r\nbanner = '''\r\na\r\n'''\r\nmax_errors = 1\r\n")
    lines = read_file(str(file)).lines
    assert (lines[("banner",)], lines[("max_errors",)]) == (3, 6)


def test_a_file_of_a_hundred_thousand_recipients_is_read_in_moments(file: Path) -> None:
    rules = "".join(f'  "user{number}@y.example", # {number}\n' for number in range(100_000))
    file.write_text(f"recipients = [\n{rules}]\nsize = 1\n")
    found = load({}, {}, str(file))
    assert len(found.config.recipients) == 100_000
    assert found.origins["size"] == f"{file} line 100003"


# --- what is wrong in the environment and in flags ---


@pytest.mark.parametrize(
    "variable, text, message",
    [
        ("SIZE", "lots", "FASTSMTP_SIZE: it takes octets such as"),
        ("MAX_ERRORS", "5x", "FASTSMTP_MAX_ERRORS: it takes a whole number"),
        ("VERBOSE", "yes", "FASTSMTP_VERBOSE: it takes true or false, not 'yes' (text)"),
        (
            "SOCKET_TIMEOUT",
            "nan",
            "FASTSMTP_SOCKET_TIMEOUT: it takes seconds, more than 0, not nan",
        ),
        ("USE_PROXY", "10.0.0.0/8;unix", "FASTSMTP_USE_PROXY: it takes a list of networks"),
        ("LISTEN", "25,,26", "FASTSMTP_LISTEN: '' is not an address to listen on"),
        ("CERTIFICATES", "a.pem", "FASTSMTP_CERTIFICATES: it takes a table with a cert"),
        (
            "MAX_CLIENT",
            "5",
            "FASTSMTP_MAX_CLIENT: there is no such variable, did you mean FASTSMTP_MA",
        ),
        ("XYZZY", "5", "FASTSMTP_XYZZY: there is no such variable"),
        ("SSL_CONTEXT", "5", "FASTSMTP_SSL_CONTEXT: ssl_context cannot be set"),
        (
            "BANNER",
            "a\nb",
            "FASTSMTP_BANNER: it takes printable ASCII, or empty, not 'a\\nb' (text)",
        ),
        ("BANNER", "\udcff", "FASTSMTP_BANNER: it takes printable ASCII"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_with_the_variable(
    variable: str, text: str, message: str
) -> None:
    assert refused_texts({}, **{f"FASTSMTP_{variable}": text}).startswith(message)


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_ignored() -> None:
    found = load(
        {},
        {
            "FASTSMTP_PORT": "tcp://10.0.0.1:25",
            "FASTSMTP_PORT_25_TCP": "tcp://10.0.0.1:25",
            "FASTSMTP_PORT_25_TCP_ADDR": "10.0.0.1",
            "FASTSMTP_SERVICE_HOST": "10.0.0.1",
            "FASTSMTP_SERVICE_PORT": "25",
            "FASTSMTP_SERVICE_PORT_SMTP": "25",
            "OTHER_SIZE": "lots",
        },
        os.devnull,
    )
    assert set(found.origins.values()) == {"default"}


def test_a_value_of_a_flag_is_told_with_the_flag() -> None:
    assert refused_texts({"max_errors": "x"}).startswith("--max-errors: it takes a whole number")
    assert refused_texts({"domains": ("a b",)}).startswith("--domain: 'a b' is not a domain")
    assert refused_texts({"cert": ""}) == "--cert: a path is needed"


def test_a_value_is_cut_where_it_is_too_long_for_a_line() -> None:
    assert len(refused_texts({"banner": "é" * 100_000})) < 300
    assert len(refused_texts({"listen": ("x" * 100_000,)})) < 500
    assert len(refused_texts({"reject": ("x" * 100_000,)})) < 500


def test_auto_is_one_worker_for_each_core_that_this_process_may_use() -> None:
    found: Loaded = load({"workers": "auto"}, {}, os.devnull)
    assert found.config.workers == len(os.sched_getaffinity(0))
    assert found.values["workers"] == "auto"


@pytest.mark.parametrize(
    "url",
    [
        "nats://s3cret@n1:4222,n2",
        "nats://n1,u:s3cret@n2",
        "postgres://u:a@s3cret@h/db?sslmode=require",
        "https://h/hook?apikey=s3cret&api_key=s3cret&code=s3cret&sig=s3cret&auth=s3cret",
    ],
)
def test_no_form_of_a_secret_in_the_url_of_the_sink_is_shown(url: str) -> None:
    found = load({}, {"FASTSMTP_DELIVER": url}, os.devnull)
    assert "s3cret" not in str(found.config.deliver)
    assert "s3cret" not in "".join(shown_values(found))
    with pytest.raises(ConfigError, match="can read the flags"):
        load({"deliver": url}, {}, os.devnull)


@pytest.mark.parametrize("scheme", ["nats", "postgres", "https", "smtp"])
def test_a_url_with_one_slash_is_refused_without_showing_it(scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"two slashes, as in {scheme}://host") as error:
        load({}, {"FASTSMTP_DELIVER": f"{scheme}:/u:s3cret@h"}, os.devnull)
    assert "s3cret" not in str(error.value)


OF_OTHERS = [
    ("nats", "stream=MAIL", "", "nats: or tls:, and mail goes to {cwd}/mail"),
    ("bodies", "url=file:/var/bodies", "", "http:, and mail goes to {cwd}/mail"),
    ("bodies", "url=file:/var/bodies", "smtp://mx", "http:, and mail goes to smtp://mx"),
    ("relay", "tls=off", "nats://n1", "smtp: or smtps: or lmtp:, and mail goes to nats://n1"),
    ("postgres", "table=m", "https://h/x", "postgresql:, and mail goes to https://h/x"),
    (
        "webhook",
        "form=raw",
        "postgres://u:s3cret@h/d",
        "and mail goes to postgres://u:********@h/d",
    ),
]


@pytest.mark.parametrize("table, item, url, words", OF_OTHERS)
def test_a_table_that_no_part_of_the_delivery_reads_is_refused_from_each_source(
    table: str, item: str, url: str, words: str, file: Path
) -> None:
    expected = words.format(cwd=os.getcwd())
    key, _, value = item.partition("=")
    file.write_text(f'[{table}]\n{key} = "{value}"\n')
    file.chmod(0o600)
    deliver = {"FASTSMTP_DELIVER": url}
    variable = f"FASTSMTP_{table.upper()}"
    for name, flags, environ, path in (
        (f"{file} line 1: {table}", {}, {}, str(file)),
        (variable, {}, {variable: item}, os.devnull),
        (f"--{table}", {table: (item,)}, {}, os.devnull),
    ):
        with pytest.raises(ConfigError) as error:
            load(flags, environ | deliver, path)
        told = str(error.value)
        assert told.startswith(f"{name}: it is for deliver with ")
        assert told.endswith(expected)
    assert not load({}, {variable: "", **deliver}, str(file)).config.tables[table]

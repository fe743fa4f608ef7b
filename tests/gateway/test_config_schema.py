"""The schema of the configuration: complete, in the words of its file, and shown as it is."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastsmtp.gateway.config import SCHEMA, Config, Loaded, example, load, shown_values
from fastsmtp.gateway.config.engine import ELSEWHERE, ENGINE_KINDS, EXCLUDED, OWN_ROWS
from fastsmtp.gateway.config.sinks import SCHEMES, TABLES
from fastsmtp.gateway.config.text import toml
from fastsmtp.gateway.config.toml_file import DEFAULT_FILES
from fastsmtp.options import OPTIONS
from fastsmtp.server import SMTPServer

ROOT = Path(__file__).parents[2]


def loaded(flags: dict[str, Any] | None = None, **environment: str) -> Loaded:
    return load(flags or {}, environment, os.devnull)


def test_every_option_of_the_engine_has_a_key_or_a_reason_why_it_has_none() -> None:
    ways = [set(ENGINE_KINDS), set(ELSEWHERE), set(EXCLUDED), set(OWN_ROWS)]
    assert sum(map(len, ways)) == len(set().union(*ways)), "an option stands in two tables"
    assert set().union(*ways) == set(OPTIONS)
    assert set(ENGINE_KINDS) | OWN_ROWS | set(ELSEWHERE.values()) <= set(SCHEMA)
    assert all(len(reason.split()) > 4 for reason in EXCLUDED.values())


@pytest.mark.parametrize("key", [row.key for row in SCHEMA.values() if row.in_options])
def test_the_default_of_an_engine_key_is_that_of_the_engine(key: str) -> None:
    given = SCHEMA[key].kind.check(SCHEMA[key].default)
    engine = getattr(SMTPServer(**{key: given}).options, key)
    assert engine == getattr(SMTPServer().options, key)


def test_every_other_key_is_a_field_of_the_config() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    keys = {row.key for row in SCHEMA.values() if not row.in_options}
    assert keys - {"listen", *TABLES} == fields - {"listeners", "options", "name", "tables"}


def test_keys_flags_and_variables_have_one_name() -> None:
    singular = {"domains": "--domain", "recipients": "--recipient", "certificates": "--certificate"}
    for key, row in SCHEMA.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
        assert row.variable == f"FASTSMTP_{key.upper()}"
        usual = "--" + key.replace("_", "-")
        assert row.flag == singular.get(key, usual) or key in ("application", "key_password")


def test_nothing_in_the_schema_is_in_the_words_of_python() -> None:
    for row in SCHEMA.values():
        for text in (row.kind.takes, row.note, row.shown_default):
            assert not re.search(r"\b(None|True|False|int|str|float|tuple|bytes|bool)\b", text), row


def test_a_password_has_no_flag_because_others_can_read_command_lines() -> None:
    flagless = [row.key for row in SCHEMA.values() if row.kind.has_secret("word")]
    assert flagless == ["key_password"]
    assert not SCHEMA["key_password"].flag


# --- the example ---


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=[a-z0-9_]+ = )", "", text, flags=re.MULTILINE)


def test_the_example_in_the_docs_is_the_printed_one() -> None:
    there = (ROOT / "docs" / "fastsmtp.toml").read_text(encoding="utf-8")
    assert there == example(), "run: make docs"


def test_the_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "fastsmtp.toml"
    file.write_text(example())
    found = load({}, {}, str(file))
    assert found.config == loaded().config
    assert set(found.origins.values()) == {"default"}


def test_every_default_in_the_example_is_the_real_one(tmp_path: Path) -> None:
    text = uncommented(example())
    assert list(tomllib.loads(text)) == list(SCHEMA)
    file = tmp_path / "fastsmtp.toml"
    # A file with the key of a password must not be readable for others.
    file.touch(0o600)
    file.write_text(text)
    found = load({}, {}, str(file))
    for key, origin in found.origins.items():
        line = int(origin.removeprefix(f"{file} line "))
        assert text.splitlines()[line - 1].startswith(f"{key} = ")
    assert found.values == loaded().values
    options = found.config.options
    assert dataclasses.replace(found.config, options={}) == loaded().config
    whole = SMTPServer(**options).options
    assert {name: getattr(whole, name) for name in options} == {
        name: getattr(SMTPServer().options, name) for name in options
    }


def without_marks(text: str) -> str:
    return re.sub(r"^# (?=[\[a-z])", "", text, flags=re.MULTILINE).replace("# ---", "#")


def test_the_listener_and_the_certificates_of_the_example_are_taken_as_they_stand(
    tmp_path: Path,
) -> None:
    text = example().partition("\n# [[listen]]")[2].partition("\n# [nats]")[0]
    file = tmp_path / "fastsmtp.toml"
    file.write_text('cert = "/etc/fastsmtp/mx.pem"\n' + without_marks("# [[listen]]" + text))
    config = load({}, {}, str(file)).config
    (listener,) = config.listeners
    assert listener.options == {"use_proxy": ("10.0.0.0/8",)}
    assert config.certificates == {
        "mail.example.org": {"cert": "/etc/fastsmtp/mail.pem", "key": "/etc/fastsmtp/mail.key"}
    }


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"maildir"}))
def test_the_tables_of_the_example_are_taken_as_they_stand_by_their_sinks(
    scheme: str, tmp_path: Path
) -> None:
    tables = {name: each for name, each in TABLES.items() if SCHEMES[scheme] in each.sinks}
    examples = [each.example for each in tables.values()]
    assert all(each in example() for each in examples)
    file = tmp_path / "fastsmtp.toml"
    file.write_text(f'deliver = "{scheme}://h.example"\n' + without_marks("".join(examples)))
    file.chmod(0o600)  # there are secrets in it
    config = load({}, {}, str(file)).config
    assert {name for name, keys in config.tables.items() if keys} == set(tables)


# --- the page ---

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of the tables of a section of the page, without their heads."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_page_has_every_key_of_the_program_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, *more in rows("Keys"):
        if len(more) == 2:
            told |= dict.fromkeys(re.findall(r"`([a-z_]+)`", names), more[0].strip("`"))
    assert set(told) == {key for key, row in SCHEMA.items() if not row.in_options}
    in_words = {"cert", "umask"}
    assert {key: default for key, default in told.items() if key not in in_words} == {
        key: row.shown_default
        for key, row in SCHEMA.items()
        if not row.in_options and key not in in_words
    }


def test_the_page_names_the_flags_and_variables_that_have_another_name() -> None:
    for key, row in SCHEMA.items():
        if row.flag.removeprefix("--") not in (key.replace("_", "-"), ""):
            assert f"`{key}` (`{row.flag}`)" in PAGE


def test_the_page_says_why_options_of_the_engine_are_no_keys() -> None:
    told = {name for names, *_ in rows("Keys") if len(_) == 1 for name in names.split("`")[1::2]}
    assert told == (set(ELSEWHERE) | set(EXCLUDED)) - set(SCHEMA)


def test_the_page_says_which_keys_are_for_applications() -> None:
    sentence = PAGE.partition("For an application only ")[2].partition(" are used")[0]
    assert set(sentence.split("`")[1::2]) == {
        key for key, row in SCHEMA.items() if row.for_applications
    }


@pytest.mark.parametrize(
    "text",
    [
        text
        for page in sorted((ROOT / "docs").glob("*.md"))
        for text in re.findall(
            r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
    ],
)
def test_the_files_on_the_pages_are_taken_as_they_stand(text: str, tmp_path: Path) -> None:
    if "submission:" in text and "users" not in text:
        text = f'users = "/etc/fastsmtp/users"\n{text}'
    if text.startswith("[bodies]"):
        text = f'deliver = "nats://n1.example.org"\n{text}'
    file = tmp_path / "fastsmtp.toml"
    file.touch(0o600)  # one of them has a password
    file.write_text(text)
    found = load({}, {}, str(file))
    given = {key for key, origin in found.origins.items() if origin != "default"}
    assert given == set(tomllib.loads(text))


def test_the_page_names_the_default_files() -> None:
    for path in DEFAULT_FILES:
        assert f"`{path}`" in PAGE


# --- the values in use ---


def test_the_values_in_use_are_toml_with_the_origin_of_each(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('\nbanner = "from \\"file\\""\nsize = "1M"\ngreet_delay = 1.5\n')
    found = load({"size": "2M"}, {"FASTSMTP_DOMAINS": "a.example, b.example"}, str(file))
    lines = list(shown_values(found))
    values = tomllib.loads("\n".join(lines))
    assert list(values) == list(SCHEMA)
    assert values == found.values
    shown = {line.partition(" = ")[0]: line for line in lines}
    assert shown["size"] == 'size = "2M"  # flag --size'
    assert shown["banner"] == f'banner = "from \\"file\\""  # {file} line 2'
    assert shown["greet_delay"] == f"greet_delay = 1.5  # {file} line 4"
    assert (
        shown["domains"] == 'domains = ["a.example", "b.example"]  # environment FASTSMTP_DOMAINS'
    )
    assert shown["spool_quota"] == 'spool_quota = "8G"  # default'
    assert shown["umask"] == 'umask = ""  # default (that of the process)'


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.touch(0o600)
    file.write_text(
        'cert = "c.pem"\nkey_password = "xyzzy"\n'
        '[certificates."a.example"]\ncert = "a.pem"\nkey_password = "xyzzy"\n'
    )
    found = load({}, {}, str(file))
    text = "\n".join(shown_values(found))
    assert 'key_password = "********"  # ' in text
    assert "xyzzy" not in text + repr(found) + repr(found.config)
    assert found.config.key_password == "xyzzy"


@pytest.mark.parametrize(
    "value",
    [
        *["", 'a"b\\c', "tab\tnewline\nnul\0del\x7f", "é\u2028😀", "#", True, False, 0, -1, 2**62],
        *[0.5, 1e-9, 1e21, 300.0, [], ["a", "b,c"], {}, {"a.b": {"c": [1]}}],
    ],
)
def test_a_value_is_written_as_toml_reads_it(value: object) -> None:
    assert tomllib.loads(f"key = {toml(value)}")["key"] == value

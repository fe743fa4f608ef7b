"""Options: defaults, what each takes and refuses, the messages, and the reference made of them."""

from __future__ import annotations

import importlib.util
import socket
import ssl
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from fastsmtp import SMTPServer, descriptors
from fastsmtp._options import names
from fastsmtp._options.kinds import Group
from fastsmtp.hook_types import OnRcptTo
from fastsmtp.options import HOOKS, OPTIONS, Networks, Options, parse_options
from fastsmtp.server_options import ServerOptions, TLSOptions

ROOT = Path(__file__).parents[2]

# The value of every option that was not given, as the engine sees it.
DEFAULTS: dict[str, object] = {
    "secure": False,
    "secured": False,
    "needs_upgrade": False,
    "banner": "",
    "lmtp": False,
    "helo_response": "%s Nice to meet you, %s",
    "greet_delay": 0.0,
    "auth_methods": ("LOGIN", "PLAIN"),
    "auth_optional": False,
    "allow_insecure_auth": False,
    "auth_required_message": "",
    "scram_iterations": 4096,
    "hide_starttls": False,
    "hide_size": False,
    "hide_pipelining": False,
    "hide_dsn": False,
    "hide_enhancedstatuscodes": False,
    "hide_requiretls": False,
    "hide_8bitmime": False,
    "hide_smtputf8": False,
    "hide_chunking": False,
    "hide_binarymime": True,
    "hide_limits": False,
    "hide_mt_priority": True,
    "hide_deliverby": True,
    "hide_futurerelease": True,
    "hide_rrvs": True,
    "future_release_max": 2_592_000,
    "allow_unknown_params": False,
    "lenient_address_parsing": False,
    "disabled_commands": frozenset(),
    "size": 26_214_400,
    "max_clients_per_host": 0,
    "max_recipients": 1000,
    "max_messages": 0,
    "max_command_length": 2048,
    "max_allowed_unauthenticated_commands": 10,
    "max_unrecognized_commands": 10,
    "max_errors": 20,
    "max_junk_commands": 100,
    "max_auth_failures": 3,
    "socket_timeout": 300.0,
    "data_timeout": 180.0,
    "min_data_rate": 500.0,
    "auth_timeout": 60.0,
    "tls_handshake_timeout": 15.0,
    "proxy_timeout": 5.0,
    "write_timeout": 30.0,
    "hook_timeout": 30.0,
    "data_hook_timeout": 240.0,
    "close_timeout": 30.0,
    "bare_newline": "reject",
    "bare_newline_exclusions": Networks(),
    "allow_bare_lf_commands": Networks(),
    "reject_nul": False,
    "strict_pipelining": True,
    "pipelining_exclusions": Networks(),
    "use_proxy": Networks(),
    "use_xclient": Networks(),
    "use_xforward": Networks(),
    "disable_reverse_lookup": False,
    "resolver": None,
    "key": None,
    "key_password": None,
    "cert": None,
    "ca": None,
    "request_cert": False,
    "reject_unauthorized": True,
    "min_version": "TLSv1.2",
    "max_version": None,
    "ciphers": None,
    "honor_cipher_order": True,
    "sni_options": None,
    "ssl_context": None,
}
COMPUTED = {"name", "max_clients", "scram_secret"}

FLAGS = sorted(
    name
    for name, value in DEFAULTS.items()
    if isinstance(value, bool) and name != "lenient_address_parsing"
)
DURATIONS = sorted(name for name in DEFAULTS if name.endswith("_timeout") or name == "greet_delay")
LIMITS = sorted({"size", "max_clients", *(name for name in DEFAULTS if name.startswith("max_"))}
                - {"max_command_length", "max_version"})  # fmt: skip
TEXTS = ("banner", "auth_required_message")
NETWORKS = (
    "bare_newline_exclusions",
    "allow_bare_lf_commands",
    "pipelining_exclusions",
    "use_proxy",
    "use_xclient",
    "use_xforward",
)


def parse(**given: object) -> Options:
    return parse_options(given)


def value_of(name: str, value: object) -> object:
    return getattr(parse_options({name: value}), name)


def normalized(name: str, value: object) -> object:
    """The same for options of features that are not there: what their kind makes of the value."""
    return OPTIONS[name].kind.normalize(value)


def refusal(name: str, value: object) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        parse_options({name: value})
    return f"{type(caught.value).__name__}: {caught.value}"


# --- the table ---


def test_every_option_has_its_default() -> None:
    options = parse()
    found = {name: getattr(options, name) for name in OPTIONS if name not in COMPUTED}
    assert found == DEFAULTS
    assert OPTIONS.keys() == DEFAULTS.keys() | COMPUTED


def test_defaults_have_the_types_of_the_engine() -> None:
    options = parse()
    for name, default in DEFAULTS.items():
        assert type(getattr(options, name)) is type(default), name


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_takes_its_own_default(name: str) -> None:
    option = OPTIONS[name]
    default = option.default() if callable(option.default) else option.default
    options = parse_options({name: default})
    assert getattr(options, name) == getattr(parse(), name)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_row_says_what_it_takes_what_it_does_and_why(name: str) -> None:
    option = OPTIONS[name]
    assert option.name == name
    assert option.takes
    assert option.default_text
    for sentence in (option.does, option.reason):
        assert sentence[0].isupper() or sentence[0] == "`" or sentence[0].isdigit(), sentence
        assert sentence.endswith("."), sentence
    assert not option.section or option.section.startswith("RFC "), option.section


def test_the_table_and_the_options_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        OPTIONS["size"] = OPTIONS["name"]  # type: ignore[index]  # the test is that it fails
    options: Any = parse()
    with pytest.raises(AttributeError):
        options.size = 1
    with pytest.raises((AttributeError, TypeError)):
        options.undreamt_of = 1


def test_options_do_not_share_what_the_user_passed() -> None:
    verbs, methods = ["VRFY"], ["LOGIN", "PLAIN"]
    options = parse(disabled_commands=verbs, auth_methods=methods)
    verbs.append("HELP")
    methods.clear()
    assert options.disabled_commands == {"VRFY"}
    assert options.auth_methods == ("LOGIN", "PLAIN")


# --- the name, the number of clients ---


def test_the_name_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mx.example")
    assert parse().name == "mx.example"
    assert parse(name=None).name == "mx.example"
    assert parse(name="Other.Example").name == "Other.Example"


@pytest.mark.parametrize("name", ["", "my mac", "größe", "a\nb", "x" * 256])
def test_a_machine_with_an_impossible_name_is_localhost(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert parse().name == "localhost"


@pytest.mark.parametrize(
    "name", ["", "a b", " a", "a\r\n220 b", "a\0b", "a\tb", "a\x7f", "\x9b", "x" * 256, "münchen"]
)
def test_the_name_is_one_token_that_a_reply_can_carry(name: str) -> None:
    message = refusal("name", name)
    assert message.startswith("ValueError: option 'name' takes a str of printable ASCII")
    assert "without spaces" in message


def test_the_error_for_an_international_name_shows_its_other_form() -> None:
    assert "xn--" in refusal("name", "münchen.example")
    assert parse(name="xn--mnchen-3ya.example").name == "xn--mnchen-3ya.example"


class Files:
    """A stand-in for the module `resource`."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def __init__(self, soft: int) -> None:
        self.soft = soft

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.soft, self.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "clients"), [(1024, 819), (20_000, 16_000), (1, 1), (-1, 8192), (0, 8192)]
)
def test_max_clients_leaves_a_fifth_of_the_files_to_the_hooks(
    monkeypatch: pytest.MonkeyPatch, soft: int, clients: int
) -> None:
    monkeypatch.setattr(descriptors, "resource", Files(soft))
    assert parse().max_clients == clients


def test_max_clients_is_bounded_where_the_limit_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(descriptors, "resource", None)
    assert parse().max_clients == 8192


def test_max_clients_can_be_switched_off() -> None:
    assert parse(max_clients=None).max_clients == 0
    assert parse(max_clients=0).max_clients == 0


# --- flags, numbers ---


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_takes_true_and_false_only(name: str) -> None:
    assert normalized(name, True) is True
    assert normalized(name, False) is False
    others: list[object] = [1, 0, None, "yes", "", [], 1.0]
    for wrong in others:
        message = refusal(name, wrong)
        assert message.startswith(f"TypeError: option {name!r} takes True or False, not {wrong!r}")


def test_leniency_towards_addresses_has_three_levels() -> None:
    for level in (False, "common", True):
        assert normalized("lenient_address_parsing", level) == level
    takes = "option 'lenient_address_parsing' takes False, 'common' or True, not"
    for wrong in (1, 0, None, [], 1.0):
        assert refusal("lenient_address_parsing", wrong).startswith(f"TypeError: {takes} {wrong!r}")
    for word in ("", "strict", "Common", "true"):
        assert refusal("lenient_address_parsing", word).startswith(f"ValueError: {takes} {word!r}")


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_off_with_zero_and_none(name: str) -> None:
    assert normalized(name, 0) == 0
    assert normalized(name, None) == 0
    assert normalized(name, 1) == 1
    assert normalized(name, 999_999) == 999_999


@pytest.mark.parametrize("name", [*LIMITS, "max_command_length", "scram_iterations"])
def test_a_limit_refuses_anything_but_a_number_in_its_range(name: str) -> None:
    takes = f"option {name!r} takes an int"
    others: list[object] = [True, False, 1.0, "10", b"10", [], Fraction(1)]
    for wrong in others:
        message = refusal(name, wrong)
        assert message.startswith(f"TypeError: {takes}"), message
    assert "a bool is not a number" in refusal(name, True)
    message = refusal(name, -1)
    assert message.startswith(f"ValueError: {takes}")
    assert message.endswith("not -1 (int)")
    assert f"ValueError: {takes}" in refusal(name, 2**62)


@pytest.mark.parametrize("name", ["max_recipients", "max_messages"])
def test_a_limit_shown_in_the_limits_line_has_at_most_six_digits(name: str) -> None:
    assert value_of(name, 999_999) == 999_999
    assert "up to 999999, 0 or None for no limit" in refusal(name, 1_000_000)


def test_a_size_beyond_64_bits_is_refused_and_not_printed_in_full() -> None:
    assert parse(size=2**62 - 1).size == 2**62 - 1
    assert str(2**62 - 1) in refusal("size", 2**62)
    assert "not an int of 16610 bits" in refusal("size", 10**5000)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("max_command_length", 512, 65_536),
        ("future_release_max", 1, 999_999_999),
        ("scram_iterations", 4096, 1_000_000),
    ],
)
def test_a_number_with_bounds_takes_them_and_nothing_beyond(name: str, low: int, high: int) -> None:
    assert normalized(name, low) == low
    assert normalized(name, high) == high
    for wrong in (low - 1, high + 1):
        assert f"from {low} to {high}, not {wrong} (int)" in refusal(name, wrong)
    assert refusal(name, None).startswith("TypeError")


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_seconds(name: str) -> None:
    for given in (5, 0.25, 86_400):
        value = normalized(name, given)
        assert value == given
        assert type(value) is float
    for no_number in (True, None, "5", "5s", Fraction(1, 2), [1]):
        message = refusal(name, no_number)
        assert message.startswith(f"TypeError: option {name!r} takes seconds as an int or float")
    may_be_nothing = name in ("greet_delay", "close_timeout")
    if may_be_nothing:
        assert normalized(name, 0) == 0.0
    for wrong in (
        *(() if may_be_nothing else (0, 0.0)),
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        float("-inf"),
        10**400,
    ):
        message = refusal(name, wrong)
        assert message.startswith(f"ValueError: option {name!r} takes seconds as an int or float")


def test_a_rate_is_more_than_nothing() -> None:
    assert parse(min_data_rate=1).min_data_rate == 1.0
    assert type(parse(min_data_rate=1).min_data_rate) is float
    for wrong in (0, -1, 0.0, float("nan"), float("inf")):
        assert refusal("min_data_rate", wrong).startswith("ValueError")
    for not_a_number in (None, True, "500"):
        assert refusal("min_data_rate", not_a_number).startswith("TypeError")
    assert "takes octets per second as an int or float, more than 0, not 0 (int)" in refusal(
        "min_data_rate", 0
    )


# --- texts ---


@pytest.mark.parametrize("name", [*TEXTS, "helo_response"])
def test_a_text_has_only_what_a_reply_can_carry(name: str) -> None:
    assert value_of(name, "Hello, ~world!") == "Hello, ~world!"
    for wrong in (
        "a\rb",
        "a\nb",
        "a\r\n250 b",
        "\0",
        "\t",
        "\x1b[2J",
        "\x7f",
        "\x9b",
        "ü",
        "\u202e",
    ):
        message = refusal(name, wrong)
        assert message.startswith(f"ValueError: option {name!r} takes a str of printable ASCII")
        assert "\n" not in message
        assert "\x1b" not in message
    for not_text in (b"x", 1, True, ["x"]):
        assert refusal(name, not_text).startswith(f"TypeError: option {name!r} takes a str")


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_option_refuses_an_empty_text_and_none(name: str) -> None:
    assert value_of(name, None) == ""
    assert value_of(name, "") == ""


def test_a_helo_response_is_needed() -> None:
    assert refusal("helo_response", None).startswith("TypeError")


# --- words ---


@pytest.mark.parametrize("policy", ["reject", "normalize", "accept"])
def test_bare_newline_takes_its_three_policies(policy: str) -> None:
    assert parse(bare_newline=policy).bare_newline == policy


def test_bare_newline_takes_nothing_else() -> None:
    takes = "option 'bare_newline' takes 'reject', 'normalize' or 'accept', not"
    assert refusal("bare_newline", "Reject") == f"ValueError: {takes} 'Reject' (str)"
    assert refusal("bare_newline", None) == f"TypeError: {takes} None"
    assert refusal("bare_newline", True) == f"TypeError: {takes} True (bool)"


@pytest.mark.parametrize("sort", [list, tuple, set, frozenset])
def test_disabled_commands_are_verbs_in_any_case(sort: type) -> None:
    options = parse(disabled_commands=sort(["vrfy", "Auth", "VRFY"]))
    assert options.disabled_commands == frozenset({"VRFY", "AUTH"})


def test_every_verb_of_the_engine_can_be_disabled() -> None:
    usual = "HELO EHLO LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"
    others = "AUTH STARTTLS XCLIENT XFORWARD EXPN SEND SOML SAML TURN ETRN"
    verbs = f"{usual} {others}".split()
    assert parse(disabled_commands=verbs).disabled_commands == frozenset(verbs)


def test_a_verb_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    message = refusal("disabled_commands", ["VRFI"])
    assert message.startswith("ValueError: option 'disabled_commands' takes a list, tuple or set")
    assert message.endswith("not ['VRFI'] (list): 'VRFI' is not known, did you mean 'VRFY'?")
    assert refusal("disabled_commands", ["ſend"]).startswith("ValueError")
    assert "'' is not known" in refusal("disabled_commands", [""])


def test_a_single_command_is_not_taken_for_a_list_of_commands() -> None:
    assert refusal("disabled_commands", "VRFY").endswith("one word must be in a list too")
    for wrong in (None, True, b"VRFY", {"VRFY": 1}, [b"VRFY"], [None], 1):
        assert refusal("disabled_commands", wrong).startswith("TypeError")


def test_auth_methods_keep_their_order_and_become_upper_case() -> None:
    given = ["scram-sha-256", "Plain", "LOGIN", "PLAIN"]
    assert normalized("auth_methods", given) == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert normalized("auth_methods", []) == ()
    every = ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"]
    every += ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]
    assert normalized("auth_methods", every) == tuple(every)


def test_auth_methods_refuse_anything_but_a_list_of_mechanisms() -> None:
    message = refusal("auth_methods", ["PLAINN"])
    assert message.startswith("ValueError: option 'auth_methods' takes a list or tuple")
    assert "did you mean 'PLAIN'?" in message
    assert refusal("auth_methods", "PLAIN").startswith("TypeError")
    assert refusal("auth_methods", {"PLAIN"}).startswith("TypeError")  # it has no order


# --- networks ---


@pytest.mark.parametrize("name", NETWORKS)
def test_true_is_not_taken_for_a_list_of_networks(name: str) -> None:
    message = refusal(name, True)
    assert message.startswith(f"ValueError: option {name!r} takes a list of networks")
    assert "True is not allowed: " in message
    why = "exclude every client" if name.endswith("_exclusions") else "any client could then"
    assert why in message


@pytest.mark.parametrize("name", NETWORKS)
def test_a_list_of_networks_is_checked_entry_by_entry(name: str) -> None:
    empty: list[object] = [False, None, [], (), set()]
    for nothing in empty:
        assert value_of(name, nothing) == Networks()
    networks = normalized(name, ["192.0.2.0/24", "2001:db8::1", "unix"])
    assert networks == Networks(["192.0.2.0/24", "2001:db8::1/128", "unix"])
    assert normalized(name, networks) == networks
    assert "'10.0.0.1/8' has host bits set" in refusal(name, ["10.0.0.1/8"])
    assert "'mx.example' is not an IPv4 or IPv6 network" in refusal(name, ["mx.example"])
    assert refusal(name, ["10.0.0.0/8", 1]).startswith("TypeError")
    assert refusal(name, "10.0.0.0/8").endswith("one network must be in a list too")
    assert refusal(name, 1).startswith("TypeError")
    assert refusal(name, {"10.0.0.0/8": True}).startswith("TypeError")


# --- objects ---


def test_a_resolver_is_a_function_or_has_one() -> None:
    class Resolver:
        def reverse(self, address: str) -> list[str]:
            return [f"name-of-{address}"]

    async def reverse(address: str) -> list[str]:
        return []

    assert parse(resolver=reverse).resolver is reverse
    found = parse(resolver=Resolver()).resolver
    assert found is not None
    assert found("192.0.2.1") == ["name-of-192.0.2.1"]
    for wrong in (True, ["8.8.8.8"], bytearray(), object()):
        assert refusal("resolver", wrong).startswith(
            "TypeError: option 'resolver' takes a function"
        )


def test_a_resolver_of_ours_is_named() -> None:
    for name in ("aiodns", "system"):
        assert parse(resolver=name).resolver == name
    for wrong in ("8.8.8.8", "", "AIODNS"):
        assert refusal("resolver", wrong).startswith(
            "ValueError: option 'resolver' takes a function"
        )


@pytest.mark.parametrize("name", ["key", "cert", "ca"])
def test_keys_and_certificates_are_paths_or_pem(name: str) -> None:
    assert normalized(name, "mx.pem") == "mx.pem"
    assert normalized(name, b"-----BEGIN") == b"-----BEGIN"
    assert normalized(name, Path("etc/mx.pem")) == str(Path("etc/mx.pem"))
    assert refusal(name, 1).startswith(f"TypeError: option {name!r} takes a path")


@pytest.mark.parametrize("name", ["min_version", "max_version"])
def test_versions_of_tls_are_named_as_openssl_names_them(name: str) -> None:
    for version in ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"):
        assert normalized(name, version) == version
    for wrong in ("SSLv3", "1.2", "TLSv1.0"):
        message = refusal(name, wrong)
        assert message.startswith(f"ValueError: option {name!r} takes 'TLSv1', 'TLSv1.1'")
    assert refusal(name, ssl.TLSVersion.TLSv1_3).startswith("TypeError")


def test_the_other_options_of_tls_and_scram_are_checked_by_type() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert normalized("ssl_context", context) is context
    assert normalized("sni_options", {"a.example": {"cert": "a.pem"}}) == {
        "a.example": {"cert": "a.pem"}
    }
    assert normalized("ciphers", "HIGH:!MD5") == "HIGH:!MD5"
    assert normalized("scram_secret", b"x" * 16) == b"x" * 16
    for name, wrong in (
        ("ssl_context", "context"),
        ("sni_options", [("a.example", {})]),
        ("sni_options", {1: {}}),
        ("ciphers", ["HIGH"]),
        ("scram_secret", "x" * 32),
    ):
        assert refusal(name, wrong).startswith(f"TypeError: option {name!r} takes ")
    assert refusal("scram_secret", b"x" * 15).startswith("ValueError")


def test_the_scram_secret_is_one_per_process() -> None:
    assert len(parse().scram_secret) == 32
    assert parse().scram_secret == parse(scram_secret=None).scram_secret


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", ["hunter2"]),
        ("key_password", ["hunter2"]),
        ("scram_secret", "hunter2"),
        ("scram_secret", b"hunter2"),
        ("scram_secret", bytearray(b"hunter2" * 5)),
        ("sni_options", {"a.example": "hunter2", 5: "hunter2"}),
    ],
)
def test_secrets_are_in_no_message(name: str, value: object) -> None:
    assert "hunter2" not in refusal(name, value)


def test_secrets_are_not_in_the_repr() -> None:
    options = parse()
    text = repr(options)
    assert "size=26214400" in text
    assert repr(options.scram_secret) not in text
    for name, option in OPTIONS.items():
        assert (f" {name}=" in text or f"({name}=" in text) is not option.is_secret


def test_the_default_in_another_spelling_is_the_default() -> None:
    options = parse(auth_methods=["login", "plain"], use_proxy=[], use_xclient=None)
    assert options.auth_methods == ("LOGIN", "PLAIN")
    assert not options.use_xclient


# --- options that exclude each other ---


@pytest.mark.parametrize("name", ["hide_pipelining", "hide_enhancedstatuscodes"])
def test_lmtp_has_to_offer_what_its_rfc_demands(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} takes only False with lmtp=True.*RFC 2033 §5"):
        parse_options({"lmtp": True, name: True})
    assert value_of(name, True) is True
    assert parse_options({"lmtp": True, name: False}).lmtp


def test_binarymime_without_chunking_is_a_valid_option() -> None:
    options = parse(hide_binarymime=False, hide_chunking=True, hide_8bitmime=True)
    assert not options.hide_binarymime


# --- names ---


# What a program might give -> what its author meant.
MEANT = {
    # misspelt
    "auth_optinal": "auth_optional",
    "max_client": "max_clients",
    "max_junk_command": "max_junk_commands",
    "mx_errors": "max_errors",
    "hide_8bit_mime": "hide_8bitmime",
    "Size": "size",
    "szie": "size",
    "nmae": "name",
    "heloresponse": "helo_response",
    "max-recipients": "max_recipients",
    "on_rcpt": "on_rcpt_to",
    "on_rctp_to": "on_rcpt_to",
    "on_closed": "on_close",
    # as the JavaScript libraries spell it
    "authOptional": "auth_optional",
    "disableReverseLookup": "disable_reverse_lookup",
    "hide8BITMIME": "hide_8bitmime",
    "hideENHANCEDSTATUSCODES": "hide_enhancedstatuscodes",
    "hideSTARTTLS": "hide_starttls",
    "maxAllowedUnauthenticatedCommands": "max_allowed_unauthenticated_commands",
    "maxClients": "max_clients",
    "minVersion": "min_version",
    "sniOptions": "sni_options",
    "socketTimeout": "socket_timeout",
    "useXClient": "use_xclient",
    "onMailFrom": "on_mail_from",
    "onRcptTo": "on_rcpt_to",
    "onSecure": "on_secure",
    # as other libraries call it
    "passphrase": "key_password",
    "secureContext": "ssl_context",
    "tls_context": "ssl_context",
    "data_size_limit": "size",
    "hostname": "name",
    "timeout": "socket_timeout",
    "require_starttls": "needs_upgrade",
    "certfile": "cert",
    "authenticator": "on_auth",
    "server_hostname": "name",
    "use_proxy_protocol": "use_proxy",
    "on_connection": "on_connect",
    "on_disconnect": "on_close",
    "on_message": "on_data",
    "on_recipient": "on_rcpt_to",
    "on_sender": "on_mail_from",
    "on_starttls": "on_secure",
    "on_ehlo": "on_helo",
}
# Names that are near to none: what looks like a hook gets the list of them.
NEAR_NONE = ("zzzzzzzzzz", "command", "handler", "loop", "greeting", "")
HOOKS_NEAR_NONE = ("on_command", "on_quit", "on_", "onIdle")


@pytest.mark.parametrize(("wrong", "right"), MEANT.items())
def test_an_unknown_option_gets_the_name_that_was_meant(wrong: str, right: str) -> None:
    message = refusal(wrong, 1)
    assert message == f"TypeError: unknown option {wrong!r}, did you mean {right!r}?"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("port", "argument of listen and run"),
        ("path", "argument of listen and run"),
        ("on_error", 'server.on("error", listener)'),
        ("onError", 'server.on("error", listener)'),
        ("logger", 'logging.getLogger("fastsmtp")'),
    ],
)
def test_a_name_that_is_not_an_option_gets_the_place_where_it_belongs(
    name: str, place: str
) -> None:
    assert refusal(name, None).startswith(f"TypeError: unknown option {name!r}: ")
    assert refusal(name, None).endswith(place)


@pytest.mark.parametrize("name", NEAR_NONE)
def test_an_unknown_option_without_a_near_name_has_no_suggestion(name: str) -> None:
    assert refusal(name, 1) == f"TypeError: unknown option {name!r}"


@pytest.mark.parametrize("name", HOOKS_NEAR_NONE)
def test_a_hook_that_does_not_exist_and_is_near_none_gets_the_list_of_hooks(name: str) -> None:
    message = f"TypeError: unknown option {name!r}, hooks are on_connect, on_secure, "
    assert refusal(name, None).startswith(message)
    assert refusal(name, None).endswith(", on_data, on_close")


@pytest.mark.parametrize("name", [name for name in (*OPTIONS, *HOOKS) if len(name) > 3])
def test_one_letter_too_few_or_in_the_wrong_place_leads_to_the_right_name(name: str) -> None:
    dropped = {name[:at] + name[at + 1 :] for at in range(len(name))}
    swapped = {name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1)}
    for wrong in (
        (dropped | swapped) - OPTIONS.keys() - HOOKS.keys() - {"securde"}
    ):  # secured, or secure
        assert refusal(wrong, 1).endswith(f"did you mean {name!r}?"), wrong


def test_the_names_of_other_libraries_lead_to_names_that_exist() -> None:
    assert set(names.OTHER_NAMES.values()) <= OPTIONS.keys() | HOOKS.keys()
    assert set(names.OTHER_HOOKS.values()) <= HOOKS.keys()
    assert not {name.replace("_", "") for name in OPTIONS} & names.OTHER_NAMES.keys()
    assert not (OPTIONS.keys() | HOOKS.keys()) & names.ELSEWHERE.keys()


def test_a_long_name_is_cut_in_the_message() -> None:
    assert len(refusal("x" * 10_000, 1)) < 200
    assert len(refusal("on_" + "x" * 10_000, 1)) < 300


def test_an_unknown_option_is_reported_before_a_bad_value() -> None:
    with pytest.raises(TypeError, match="did you mean 'max_clients'"):
        parse(size=-1, max_client=1)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_not_an_option(name: str) -> None:
    assert refusal(name, print) == f"TypeError: {name!r} is a hook, not an option"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal("bare_newline", "x" * 100_000)) < 300
    assert len(refusal("disabled_commands", ["x" * 100_000])) < 600
    assert len(refusal("use_proxy", ["x" * 100_000])) < 500


# --- the reference ---


def script(name: str) -> ModuleType:
    """A script in docs/ that makes a file from the table."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == script("make_options").render(), "run: make docs"


def test_the_types_of_the_options_are_current() -> None:
    module = (ROOT / "fastsmtp" / "server_options.py").read_text(encoding="utf-8")
    made = script("make_server_options")
    assert module == made.render(), "run: make docs"
    module = (ROOT / "fastsmtp" / "_options" / "of_session.py").read_text(encoding="utf-8")
    assert module == made.render_of_session(), "run: make docs"


def test_the_types_can_be_read_while_a_program_runs() -> None:
    types = get_type_hints(ServerOptions)
    assert types.keys() == OPTIONS.keys() | HOOKS.keys()
    assert types["size"] == int | None
    assert types["on_rcpt_to"] == OnRcptTo | None
    tls = {name for name, option in OPTIONS.items() if option.group is Group.TLS}
    assert get_type_hints(TLSOptions).keys() == tls
    assert ServerOptions.__required_keys__ == frozenset()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_has_a_row_of_six_cells_for_each_option(name: str) -> None:
    option = OPTIONS[name]
    rows = [
        line
        for line in script("make_options").render().splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 7
    for text in (option.takes, option.does, option.reason, option.default_text):
        assert text in rows[0]


@pytest.mark.parametrize("name", [*OPTIONS, "lifespan"])
def test_an_option_that_is_set_on_a_server_is_an_error_and_not_ignored(name: str) -> None:
    server = SMTPServer()
    with pytest.raises(AttributeError, match=f"^{name} is an option: give it when the server"):
        setattr(server, name, 5)
    assert not hasattr(server, name)

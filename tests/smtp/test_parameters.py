"""Parameters of MAIL and RCPT, and xtext, rows PARM-01 to PARM-13.

They are looked at from left to right, and the first fault is the reply.
RFC 5321 §4.1.1.11; RFC 3461 §4; RFC 6533; RFC 6152; RFC 4954 §5; RFC 3030.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import EH, MAILED, Script, every_cut, one_way

from fastsmtp import SMTPError, ValidSince
from fastsmtp.testing import Wire

SENDER, RECIPIENT = b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>"
BAD, UNKNOWN = "501 5.5.4", "555 5.5.4"


def row(row_id: str, *parameters: str) -> list[Any]:
    """One parameter set per text, with the row's id in front."""
    return [
        pytest.param(text, id=f"{row_id} {text[:40]}", marks=pytest.mark.row(row_id))
        for text in parameters
    ]


def mail(parameters: str, **options: Any) -> scenario.Conversation:
    """MAIL with `parameters`, in each of the ways."""
    return every_cut([EH, SENDER + b" " + parameters.encode() + b"\r\n"], **options)


def rcpt(parameters: str, **options: Any) -> scenario.Conversation:
    """RCPT with `parameters`, in each of the ways."""
    lines = SENDER + b"\r\n" + RECIPIENT + b" " + parameters.encode() + b"\r\n"
    return every_cut([EH, lines], **options)


def asked(run: scenario.Conversation) -> Any:
    """What the hook of MAIL saw: (body_type, smtp_utf8, ret, envid)."""
    assert run.codes == ["220", "250", "250 2.1.0"]
    (entry,) = [entry for entry in run.trace if entry[0] == "mail"]
    return entry[3]


def dsn(run: scenario.Conversation) -> Any:
    """What the hook of RCPT saw: (notify, orcpt)."""
    assert run.codes == ["220", "250", *MAILED]
    (entry,) = [entry for entry in run.trace if entry[0] == "rcpt"]
    return entry[3]


def args(run: scenario.Conversation) -> Any:
    """The parameters as the hook of MAIL saw them."""
    (entry,) = [entry for entry in run.trace if entry[0] == "mail"]
    return entry[2]


def assert_mail_refused(parameters: str, code: str, **options: Any) -> None:
    """No hook is asked, and no transaction is open after it."""
    line = SENDER + b" " + parameters.encode() + b"\r\n"
    ran = every_cut([EH, line + RECIPIENT + b"\r\n"], **options)
    assert ran.codes == ["220", "250", code, "503 5.5.1"]
    assert ran.recorder.named("mail") == []


def assert_rcpt_refused(parameters: str, code: str, **options: Any) -> None:
    """No hook is asked, and no recipient is added."""
    lines = SENDER + b"\r\n" + RECIPIENT + b" " + parameters.encode() + b"\r\nDATA\r\n"
    ran = every_cut([EH, lines], **options)
    assert ran.codes == ["220", "250", "250 2.1.0", code, "503 5.5.1"]
    assert ran.recorder.named("rcpt") == []


# --- form ---

MALFORMED = [
    "=1",
    "A==B",
    "X=",
    "SIZE=",
    "A=B=C",
    "-A=1",
    "A_B=1",
    "A>",
    "A=\x80",
    "A,B",
    "=",
    "==",
]


@pytest.mark.parametrize("text", row("PARM-01", *MALFORMED))
def test_a_malformed_parameter_is_refused(text: str) -> None:
    assert_mail_refused(text, BAD)
    assert_mail_refused(text, BAD, allow_unknown_params=True)
    assert_rcpt_refused(text, BAD)


@pytest.mark.parametrize("text", row("PARM-01", "FOO=1", "FOO", "X-1=y", "1", "NOTIFY=NEVER"))
def test_an_unknown_parameter_is_refused(text: str, run: Run) -> None:
    assert_mail_refused(text, UNKNOWN)
    assert_mail_refused(f"SIZE=1 {text}", UNKNOWN)
    if text != "NOTIFY=NEVER":
        assert_rcpt_refused(text, UNKNOWN)
        assert_rcpt_refused(f"NOTIFY=NEVER {text}", UNKNOWN)
    ran = one_way([EH, SENDER + b" " + text.encode() + b"\r\n"])
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("PARM-01")
def test_unknown_parameters_go_to_the_hook_where_they_are_allowed() -> None:
    ran = mail("foo=a+2Bb X-1 size=1 Z=\x7e", allow_unknown_params=True)
    assert args(ran) == {"FOO": "a+2Bb", "X-1": True, "SIZE": "1", "Z": "~"}
    assert_mail_refused("FOO FOO", BAD, allow_unknown_params=True)
    assert_mail_refused("NOTIFY=NEVER", UNKNOWN, allow_unknown_params=True)
    assert_mail_refused("MT-PRIORITY=1", UNKNOWN, allow_unknown_params=True)


@pytest.mark.parametrize(
    "text", row("PARM-01", "SIZE=1 SIZE=2", "SIZE=1 size=1", "BODY=7BIT RET=FULL BODY=7BIT")
)
def test_a_repeated_parameter_is_refused(text: str) -> None:
    assert_mail_refused(text, BAD)


@pytest.mark.row("PARM-01")
def test_keywords_are_taken_in_any_case() -> None:
    ran = mail("size=1 bOdY=8bitMIME")
    assert asked(ran)[0] == "8bitmime"
    assert args(ran) == {"SIZE": "1", "BODY": "8bitMIME"}


@pytest.mark.row("PARM-01")
def test_the_first_fault_from_the_left_decides_the_reply() -> None:
    assert_mail_refused("FOO=1 A==B", UNKNOWN)
    assert_mail_refused("A==B FOO=1", BAD)
    assert_mail_refused("SIZE=99999999999 FOO=1", "552 5.3.4")
    assert_mail_refused("RET=X SIZE=99999999999", BAD)


@pytest.mark.row("PARM-01")
@pytest.mark.parametrize("text", ["MT-PRIORITY=3", "BY=120;R", "HOLDFOR=60"])
def test_a_parameter_that_is_not_offered_is_unknown(text: str) -> None:
    assert_mail_refused(text, UNKNOWN)


# --- xtext ---


@pytest.mark.parametrize(
    "text", row("PARM-02", "+4", "+GG", "+4g", "+0d", "+", "a=b", "a+", "a++2B")
)
def test_malformed_xtext_is_refused(text: str) -> None:
    assert_mail_refused(f"ENVID={text}", BAD)
    assert_rcpt_refused(f"ORCPT=rfc822;{text}", BAD)


@pytest.mark.row("PARM-02")
def test_xtext_is_decoded() -> None:
    ran = mail("ENVID=+2B+3D")
    assert asked(ran)[3] == "+="
    assert args(ran) == {"ENVID": "+="}
    assert dsn(rcpt("ORCPT=rfc822;+2B+3D"))[1] == "rfc822;+="


@pytest.mark.parametrize(
    "text", row("PARM-03", "+00", "+0D+0A", "+1B", "+7F", "+80", "+C3+A9", "a+09")
)
def test_control_characters_are_refused_after_decoding_as_before(text: str) -> None:
    assert_mail_refused(f"ENVID={text}", BAD)
    assert_rcpt_refused(f"ORCPT=rfc822;{text}", BAD)


@pytest.mark.row("PARM-04")
def test_xtext_is_decoded_once() -> None:
    assert asked(mail("ENVID=+2B0D+2B0A"))[3] == "+0D+0A"
    assert dsn(rcpt("ORCPT=rfc822;+2B0D"))[1] == "rfc822;+0D"


# --- DSN ---


@pytest.mark.row("PARM-05")
def test_the_lengths_of_envid_and_orcpt_are_those_on_the_wire() -> None:
    assert asked(mail("ENVID=" + "e" * 100))[3] == "e" * 100
    assert asked(mail("ENVID=e" + "+65" * 33))[3] == "e" * 34
    assert_mail_refused("ENVID=" + "e" * 101, BAD)
    assert_mail_refused("ENVID=ee" + "+65" * 33, BAD)
    assert_mail_refused("ENVID", BAD)
    assert dsn(rcpt("ORCPT=rfc822;" + "o" * 493))[1] == "rfc822;" + "o" * 493
    assert_rcpt_refused("ORCPT=rfc822;" + "o" * 494, BAD)


@pytest.mark.parametrize("text", row("PARM-05", "rfc822;", ";x", "x", ";", "x.y;z", "(;x", "a@b;x"))
def test_a_malformed_orcpt_is_refused(text: str) -> None:
    assert_rcpt_refused(f"ORCPT={text}", BAD)


@pytest.mark.row("PARM-05")
@pytest.mark.parametrize(
    "sent, stored",
    [
        ("rfc822;b@y.example", "rfc822;b@y.example"),
        ("RFC822;b+40y", "RFC822;b@y"),
        (r"utf-8;\x{E9}@y", r"utf-8;\x{E9}@y"),
        ("x400;a;b", "x400;a;b"),
    ],
)
def test_orcpt_keeps_its_type_and_is_decoded(sent: str, stored: str) -> None:
    assert dsn(rcpt(f"ORCPT={sent}"))[1] == stored


@pytest.mark.row("PARM-05")
def test_utf8_is_allowed_in_orcpt_and_envid_of_an_smtputf8_transaction_only() -> None:
    lines = "MAIL FROM:<a@x> SMTPUTF8 ENVID=\u00e9\r\nRCPT TO:<b@y> ORCPT=utf-8;\u00e9\r\n"
    ran = every_cut([EH, lines.encode()])
    assert dsn(ran)[1] == "utf-8;\u00e9"
    assert_rcpt_refused("ORCPT=utf-8;\u00e9", BAD)
    assert_mail_refused("ENVID=\u00e9", BAD)


@pytest.mark.parametrize(
    "text",
    row(
        "PARM-06",
        "NOTIFY=NEVER,FAILURE",
        "NOTIFY=FAILURE,NEVER",
        "NOTIFY=",
        "NOTIFY",
        "NOTIFY=ALWAYS",
        "NOTIFY=SUCCESS,",
        "NOTIFY=,SUCCESS",
        "NOTIFY=SUCCESS,,DELAY",
        "NOTIFY=SUCCESS;DELAY",
        "NOTIFY=SUCCESS NOTIFY=DELAY",
    ),
)
def test_a_bad_notify_is_refused(text: str) -> None:
    assert_rcpt_refused(text, BAD)


@pytest.mark.row("PARM-06")
@pytest.mark.parametrize(
    "sent, stored",
    [
        ("never", ("NEVER",)),
        ("success,delay,success", ("SUCCESS", "DELAY")),
        ("DELAY,FAILURE,SUCCESS", ("DELAY", "FAILURE", "SUCCESS")),
    ],
)
def test_notify_is_a_list_without_repeats(sent: str, stored: tuple[str, ...]) -> None:
    assert dsn(rcpt(f"NOTIFY={sent}"))[0] == stored


@pytest.mark.row("PARM-07")
def test_ret_is_full_or_hdrs_once_and_for_mail_only() -> None:
    assert asked(mail("RET=full"))[2] == "FULL"
    assert asked(mail("RET=Hdrs"))[2] == "HDRS"
    for text in ("RET=X", "RET", "RET=FULL RET=FULL", "RET=FULL RET=HDRS"):
        assert_mail_refused(text, BAD)
    assert_rcpt_refused("RET=FULL", UNKNOWN)


# --- BODY, AUTH ---


@pytest.mark.row("PARM-08")
@pytest.mark.parametrize(
    "value, options, stored",
    [
        ("7bit", {}, "7bit"),
        ("8BITMIME", {}, "8bitmime"),
        ("BinaryMIME", {"hide_binarymime": False}, "binarymime"),
    ],
)
def test_the_value_of_body_is_taken_in_any_case(
    value: str, options: dict[str, Any], stored: str
) -> None:
    assert asked(mail(f"BODY={value}", **options))[0] == stored


@pytest.mark.row("PARM-08")
@pytest.mark.parametrize(
    "text, options, code",
    [
        ("BODY=BINARYMIME", {}, BAD),
        ("BODY=BINARYMIME", {"hide_binarymime": False, "hide_chunking": True}, BAD),
        ("BODY=BINARYMIME", {"hide_binarymime": False, "disabled_commands": ["BDAT"]}, BAD),
        ("BODY=X", {}, BAD),
        ("BODY", {}, BAD),
        ("BODY=8BITMIME", {"hide_8bitmime": True}, UNKNOWN),
    ],
)
def test_a_body_that_is_not_offered_is_refused(
    text: str, options: dict[str, Any], code: str
) -> None:
    assert_mail_refused(text, code, **options)


@pytest.mark.row("PARM-09")
@pytest.mark.parametrize("value", ["<>", "u@x", "u+2Bv@x.example", '"a+20b"@x'])
def test_the_sender_of_a_client_that_has_no_user_is_not_trusted(value: str) -> None:
    ran = mail(f"AUTH={value}")
    assert ran.codes == ["220", "250", "250 2.1.0"]
    (entry,) = [entry for entry in ran.trace if entry[0] == "mail"]
    assert entry[4] == ""


@pytest.mark.row("PARM-09")
def test_a_malformed_auth_parameter_counts_as_no_sender() -> None:
    """curl and KMail send `<user@host>`, others the bare user name (RFC 4954 §5)."""
    odd = ("=+", "=u", "=<u@x>", "=<", "=u@", "", "=" + "u" * 499 + "@x", "=a+4g@x", "=a+0D@x")
    for value in odd:
        ran = mail(f"AUTH{value}")
        assert ran.codes == ["220", "250", "250 2.1.0"]
        assert args(ran) == {"AUTH": "<>"}
        (entry,) = [entry for entry in ran.trace if entry[0] == "mail"]
        assert entry[4] == ""
    assert_mail_refused("AUTH==", BAD)  # no esmtp-value: that is a matter of every parameter
    assert_mail_refused("AUTH=<>", UNKNOWN, disabled_commands=["AUTH"])
    assert every_cut([EH, SENDER + b"\r\n"]).trace[1][4] is None


# --- sessions without parameters ---


@pytest.mark.row("PARM-10")
def test_hidden_parameters_are_unknown() -> None:
    for text in ("RET=FULL", "ENVID=a", "RET=X"):
        assert_mail_refused(text, UNKNOWN, hide_dsn=True)
        assert_mail_refused(text, UNKNOWN, hide_dsn=True, allow_unknown_params=True)
    for text in ("NOTIFY=NEVER", "ORCPT=rfc822;b"):
        assert_rcpt_refused(text, UNKNOWN, hide_dsn=True)


@pytest.mark.row("PARM-11")
@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("text", ["SIZE=1", "BODY=7BIT", "RET=FULL", "SMTPUTF8", "FOO"])
def test_parameters_are_refused_after_helo_until_ehlo(text: str, allow: bool, run: Run) -> None:
    sender = SENDER + b" " + text.encode() + b"\r\n"
    plain = SENDER + b"\r\n" + RECIPIENT
    steps = [b"HELO c\r\n", sender + plain + b" NOTIFY=NEVER\r\n", EH, sender]
    ran = every_cut(steps, allow_unknown_params=allow)
    last = "250 2.1.0" if allow or text != "FOO" else UNKNOWN
    assert ran.codes == ["220", "250", UNKNOWN, "250 2.1.0", UNKNOWN, "250", last]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("PARM-12")
def test_a_command_has_64_parameters_at_most() -> None:
    words = [f"X{number}" for number in range(65)]
    ran = mail(" ".join(words[:64]), allow_unknown_params=True)
    assert args(ran) == dict.fromkeys(words[:64], True)
    assert_mail_refused(" ".join(words), BAD, allow_unknown_params=True)
    assert_rcpt_refused(" ".join(words), BAD, allow_unknown_params=True)
    assert_mail_refused(" ".join(words), BAD)
    many = " ".join(f"Y{number}=" + "z" for number in range(280))
    assert len(many) < 2000
    assert_mail_refused(many, BAD, allow_unknown_params=True)


@pytest.mark.row("PARM-13")
def test_a_mail_that_a_hook_refused_leaves_nothing(run: Run) -> None:
    hooks = Script(mail=lambda address, session: REFUSAL if address.local_part == "no" else None)
    first = b"MAIL FROM:<no@x> BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=e AUTH=u@x\r\n"
    second = SENDER + b"\r\nRCPT TO:<\xc3\xa9@y.example>\r\n"
    ran = every_cut([EH, first + second], hooks)
    assert ran.codes == ["220", "250", "550 5.7.1", "250 2.1.0", "553 5.6.7"]
    calls = [entry for entry in ran.trace if entry[0] == "mail"]
    assert calls[0][3:] == (("8bitmime", True, "FULL", "e"), "")
    assert calls[1][2:] == ({}, ("7bit", False, None, None), None)
    run(scenario.repeat_on_the_wire(ran))


REFUSAL = SMTPError("", 550)


# --- RRVS (RFC 7293) ---

RRVS = {"hide_rrvs": False}


@pytest.mark.parametrize(
    "text, since, action",
    [
        ("2014-04-03T23:01:00Z", datetime(2014, 4, 3, 23, 1, tzinfo=UTC), ""),
        ("2014-04-03t23:01:00.5z;c", datetime(2014, 4, 3, 23, 1, 0, 500_000, UTC), "C"),
        (
            "2014-04-03T23:01:00-07:30;R",
            datetime(2014, 4, 3, 23, 1, tzinfo=timezone(-timedelta(hours=7, minutes=30))),
            "R",
        ),
    ],
)
def test_rrvs_is_a_time_and_an_action(text: str, since: datetime, action: str) -> None:
    seen: list[Any] = []

    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        seen.append((address.valid_since, address.args))
        callback()

    with Wire(**scenario.DEFAULTS, **RRVS, on_rcpt_to=on_rcpt_to) as wire:
        wire.send(EH)
        lines = SENDER + b"\r\n" + RECIPIENT + b" RRVS=" + text.encode() + b"\r\n"
        wire.send(lines + RECIPIENT + b"\r\n")
    assert seen == [(ValidSince(since, action), {"RRVS": text}), (None, {})]


@pytest.mark.parametrize(
    "parameters",
    [
        *("RRVS", "RRVS=", "RRVS=2014-04-03", "RRVS=2014-02-31T00:00:00Z", "RRVS=1396566060"),
        *("RRVS=2014-04-03T23:01:00", "RRVS=2014-04-03T23:01:00Z;X", "RRVS=2014-04-03T23:01:00Z;"),
        "RRVS=2014-04-03T23:01:00Z RRVS=2014-04-03T23:01:00Z",
    ],
)
def test_rrvs_that_is_not_one_is_501(parameters: str) -> None:
    assert_rcpt_refused(parameters, BAD, **RRVS)


def test_rrvs_is_offered_and_taken_only_where_it_is_switched_on() -> None:
    parameter = "RRVS=2014-04-03T23:01:00Z"
    assert_rcpt_refused(parameter, UNKNOWN)
    assert_rcpt_refused(parameter, UNKNOWN, allow_unknown_params=True)
    assert_mail_refused(parameter, UNKNOWN, **RRVS)
    for options, is_offered in ((RRVS, True), ({}, False)):
        with Wire(**scenario.DEFAULTS, **options) as wire:
            assert (b"RRVS\r\n" in wire.send(EH)) == is_offered

"""The programs in examples/ do what they say: each is started, used by the standard library's
client, and ended by SIGTERM.
"""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest
from example_kit import BODY, EXAMPLES, IS_POSSIBLE, example, smtp

pytestmark = [pytest.mark.usefixtures("no_leaks"), *IS_POSSIBLE]


def test_accept_all_takes_everything() -> None:
    with example("accept_all.py", "0") as running, smtp(running) as client:
        client.sendmail("a@x.example", ["b@y.example", "c@z.example"], BODY)
        client.sendmail("", ["b@y.example"], b"x" * 1_000_000 + b"\r\n")
    assert running.said == [
        f"{len(BODY)} octets for b@y.example, c@z.example",
        "1000002 octets for b@y.example",
    ]


def test_coroutine_hooks_delivers_to_its_users_only() -> None:
    with example("coroutine_hooks.py", "0") as running, smtp(running) as client:
        refused = client.sendmail(
            "a@x.example", ["alice@example.org", "eve@example.org", "bob@other.example"], BODY
        )
        assert refused == {
            "eve@example.org": (550, b"5.1.1 no such user here"),
            "bob@other.example": (554, b"5.7.1 relaying denied"),
        }
        with pytest.raises(smtplib.SMTPSenderRefused) as error:
            client.sendmail("eve@example.org", ["bob@example.org"], BODY)
        assert error.value.smtp_code == 550
        with pytest.raises(smtplib.SMTPSenderRefused) as error:
            client.sendmail("a@x.example", ["bob@example.org"], b"x" * 11_000_000)
        assert error.value.smtp_code == 552
    assert running.said == ["alice@example.org: 'Hi there'", "127.0.0.1 has left"]


def test_submission_takes_mail_of_its_users_only() -> None:
    with example("submission.py", "0") as running, smtp(running) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as error:
            client.sendmail("alice@example.org", ["b@y.example"], BODY)
        assert error.value.smtp_code == 530
        with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
            client.login("alice", "looking glass")
        assert wrong.value.smtp_error == b"5.7.8 wrong name or password"
        client.login("alice", "wonderland")
        with pytest.raises(smtplib.SMTPSenderRefused) as error:
            client.sendmail("bob@example.org", ["b@y.example"], BODY)
        assert error.value.smtp_code == 550
        client.sendmail("alice@example.org", ["b@y.example"], BODY)
    assert running.said == [f"{len(BODY)} octets of alice by ESMTPA"]


def test_lmtp_gateway_answers_each_recipient_and_keeps_what_it_took(tmp_path: Path) -> None:
    folder, path = tmp_path / "mail", str(tmp_path / "lmtp")
    for name in ("alice", "bob"):
        (folder / name).mkdir(parents=True)
    with example("lmtp_gateway.py", path, str(folder)) as running:
        assert running.place == path
        with smtplib.LMTP(path) as client:
            client.ehlo("c.example")
            assert client.mail("a@x.example")[0] == 250
            assert client.rcpt("alice@y.example")[0] == 250
            assert client.rcpt("..@y.example")[0] in (501, 550)
            assert client.rcpt("eve@y.example")[0] == 550
            assert client.rcpt("BOB@y.example")[0] == 250
            (folder / "bob").rmdir()
            assert client.docmd("DATA")[0] == 354
            client.send(BODY.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            assert [client.getreply()[0] for _ in range(2)] == [250, 452]
    (kept,) = (folder / "alice").iterdir()
    assert kept.read_bytes() == BODY


def test_delivery_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    with example("delivery.py", str(tmp_path), "0") as running, smtp(running) as client:
        client.sendmail("a@x.example", ["b@y.example"], BODY)
        client.sendmail("a@x.example", ["b@y.example"], b"x" * 3_000_000 + b"\r\n")
        kept = [path.read_bytes() for path in (tmp_path / "new").iterdir()]
    assert sorted(len(each) > 3_000_000 for each in kept) == [False, True]
    assert min(kept, key=len).endswith(b"\nSubject: Hi there\n\n.text\n")
    assert running.said == ["2 messages delivered"]


def test_each_program_fits_on_a_page_has_its_test_and_is_in_the_list() -> None:
    root = EXAMPLES.parent
    listed = (root / "docs" / "examples.md").read_text(encoding="utf-8")
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py")
    )
    for program in EXAMPLES.glob("*.py"):
        text = program.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 80 or "from fastsmtp" not in text
        assert f"/examples/{program.name})" in listed
        assert f'"{program.name}"' in tests or f"{program.stem}:app" in tests

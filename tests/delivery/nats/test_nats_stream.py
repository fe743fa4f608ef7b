"""What the configuration of a stream and its servers promises, and what is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from fastsmtp.delivery import DeliveryError, Full, Promise, TooLarge, Unavailable, Unclear
from fastsmtp.delivery.nats.publisher import error_of
from fastsmtp.delivery.nats.settings import Login, server_urls, settings_of
from fastsmtp.delivery.nats.stream import Facts, facts_of, lost_quorum

pytestmark = pytest.mark.one_python

SECOND = 10**9
CONFIG: dict[str, Any] = {
    "name": "MAIL",
    "subjects": ["mail.in"],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "num_replicas": 3,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "duplicate_window": 120 * SECOND,
    "allow_atomic": True,
}
THREE = {"leader": "n1", "replicas": [{"name": "n2"}, {"name": "n3"}]}
MIB = 1024 * 1024


def facts(
    *,
    subject: str = "",
    deadline: float = 30.0,
    max_payload: int = MIB,
    synced: set[str] | None = None,
    cluster: dict[str, Any] | None = THREE,
    **config: Any,
) -> Facts:
    info = {"config": CONFIG | config, "cluster": cluster}
    return facts_of(info, subject, deadline=deadline, max_payload=max_payload, synced=synced)


@pytest.mark.parametrize(
    "copies, synced, promise",
    [
        (3, {"n1", "n2", "n3"}, Promise.QUORUM_DISK),
        (3, None, Promise.QUORUM_DISK),
        (5, None, Promise.QUORUM_DISK),
        (3, {"n1", "n2"}, Promise.QUORUM),
        (3, set(), Promise.QUORUM),
        (1, None, Promise.DISK),
        (1, set(), Promise.MEMORY),
        (2, None, Promise.DISK),
        (2, set(), Promise.MEMORY),
    ],
)
def test_the_promise_is_what_copies_and_syncs_are_worth(
    copies: int, synced: set[str] | None, promise: Promise
) -> None:
    assert facts(num_replicas=copies, synced=synced).promise is promise


def test_a_single_server_that_syncs_is_a_disk() -> None:
    found = facts(num_replicas=1, cluster=None, synced={"n1"})
    assert found.promise is Promise.DISK
    assert facts(num_replicas=1, cluster=None, synced=set()).promise is Promise.MEMORY


def test_the_remark_names_the_servers_that_do_not_sync_and_the_copies() -> None:
    assert "sync_interval of n2, n3 is not always" in facts(synced={"n1"}).remark
    assert "num_replicas of stream MAIL is 1" in facts(num_replicas=1).remark
    assert facts().remark == ""


@pytest.mark.parametrize(
    "config, words",
    [
        ({"storage": "memory"}, "storage is memory"),
        ({"persist_mode": "async"}, "persist_mode is async"),
        ({"no_ack": True}, "no_ack is set"),
        ({"mirror": {"name": "X"}}, "it is a mirror"),
        ({"sealed": True}, "it is sealed"),
        ({"retention": "interest"}, "retention is interest"),
        ({"max_age": 3600 * SECOND}, "max_age drops"),
        ({"discard": "old", "max_msgs": 9}, "discard is old: with max_msgs"),
        ({"discard": "old", "max_bytes": 9}, "discard is old: with max_bytes"),
        ({"max_msgs_per_subject": 9}, "max_msgs_per_subject drops"),
        ({"duplicate_window": 29 * SECOND}, "duplicate_window is 29 s"),
        ({"duplicate_window": 0}, "duplicate_window is 0 s"),
        ({"max_msg_size": 1000}, "max_msg_size of stream MAIL is 1000"),
    ],
)
def test_a_stream_that_would_lose_mail_is_refused_by_the_name_of_its_setting(
    config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        facts(**config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"retention": "workqueue"},
        {"discard": "old"},
        {"max_msgs": 9, "max_bytes": 9},
        {"max_msgs_per_subject": 9, "discard_new_per_subject": True},
        {"duplicate_window": 30 * SECOND},
    ],
)
def test_a_stream_that_keeps_its_mail_is_taken(config: dict[str, Any]) -> None:
    assert facts(**config).promise is Promise.QUORUM_DISK


def test_the_smallest_limit_decides_how_large_a_record_may_be() -> None:
    assert facts().max_octets == MIB - 512
    assert facts(max_payload=300_000).max_octets == 300_000 - 512
    assert facts(max_msg_size=200_000).max_octets == 200_000 - 512
    with pytest.raises(ValueError, match="max_payload of the servers is 1000"):
        facts(max_payload=1000)


@pytest.mark.parametrize(
    "subjects, subject, found",
    [
        (["mail.in"], "", "mail.in"),
        (["mail.in"], "mail.in", "mail.in"),
        (["mail.*", "x"], "mail.a", "mail.a"),
        (["mail.>"], "mail.a.b", "mail.a.b"),
    ],
)
def test_the_subject_is_one_of_the_stream(subjects: list[str], subject: str, found: str) -> None:
    assert facts(subjects=subjects, subject=subject).subject == found


@pytest.mark.parametrize(
    "subjects, subject",
    [
        (["mail.*"], ""),
        (["a", "b"], ""),
        ([], ""),
        (["mail.in"], "mail"),
        (["mail.*"], "mail.a.b"),
        (["mail.>"], "mail"),
        (["mail.*"], "post.a"),
    ],
)
def test_a_subject_that_is_not_one_of_the_stream_is_refused(
    subjects: list[str], subject: str
) -> None:
    with pytest.raises(ValueError, match=r"^subject: "):
        facts(subjects=subjects, subject=subject)


@pytest.mark.parametrize(
    "cluster, lost",
    [
        (None, False),
        ({"leader": "n1", "replicas": []}, False),
        ({"leader": "n1", "replicas": [{"active": 1}, {"active": 2}]}, False),
        ({"leader": "n1", "replicas": [{"active": 1}, {"offline": True}]}, False),
        ({"leader": "n1", "replicas": [{"active": 9 * SECOND}, {"offline": True}]}, True),
        ({"leader": "", "replicas": [{"active": 1}, {"active": 2}]}, True),
    ],
)
def test_a_quorum_is_lost_with_its_leader_or_most_of_its_copies(
    cluster: dict[str, Any] | None, lost: bool
) -> None:
    assert lost_quorum({"cluster": cluster}) is lost


def test_the_scheme_and_the_login_of_the_first_server_count_for_all() -> None:
    urls, login, needs_tls = server_urls("tls://an%40ne:pw@n1:7777, n2,[::1]:99")
    assert urls == ("tls://n1:7777", "tls://n2:4222", "tls://[::1]:99")
    assert (login.user, login.password, needs_tls) == ("an@ne", "pw", True)
    assert "pw" not in repr(login)


def test_a_name_without_a_password_is_a_token() -> None:
    _, login, _ = server_urls("nats://t%3Dk@n1,n2")
    assert (login.token, login.user) == ("t=k", "")
    assert "t=k" not in repr(login)
    _, login, _ = server_urls("nats://user:@n1")
    assert (login.token, login.user, login.password) == ("", "user", "")


def test_a_password_that_is_given_alone_is_that_of_the_name_in_the_url() -> None:
    def login_of(servers: str, **given: str) -> Login:
        return settings_of(servers, Login(**given), ca="", cert="", key="").login

    assert login_of("nats://gateway@n1", password="pw")[:3] == ("gateway", "pw", "")
    assert login_of("nats://x:y@n1", user="gateway", password="pw")[:3] == ("gateway", "pw", "")
    assert login_of("nats://x:y@n1", token="tk")[:3] == ("", "", "tk")
    with pytest.raises(ValueError, match="password: it needs a user"):
        login_of("nats://n1", password="pw")


@pytest.mark.parametrize(
    "servers", ["", "http://n1", "nats://", "nats://n1/path", "nats://n1:x", "nats://n1,tls://n2"]
)
def test_an_address_that_is_none_is_refused(servers: str) -> None:
    with pytest.raises(ValueError, match="servers"):
        server_urls(servers)


@pytest.mark.parametrize(
    "number, text, kind",
    [
        (10002, "resource limits exceeded for account", Full),
        (10023, "insufficient resources", Full),
        (10047, "insufficient storage resources available", Full),
        (10077, "maximum bytes exceeded", Full),
        (10077, "write 1.blk: no space left on device", Full),
        (10077, "write 1.blk: input/output error", Unclear),
        (10054, "message size exceeds maximum allowed", TooLarge),
        (10076, "JetStream not enabled", Unavailable),
        (1, "anything", Unclear),
        (None, "anything", Unclear),
    ],
)
def test_an_answer_that_there_is_no_room_is_452_and_one_that_is_not_known_may_be_stored(
    number: int | None, text: str, kind: type[DeliveryError]
) -> None:
    assert type(error_of({"err_code": number, "description": text})) is kind

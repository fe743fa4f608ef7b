"""Mail is posted to an HTTP endpoint, and its answer is the reply of the client."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import smtplib
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from on_loops import on_loops
from tls_kit import authority, ca_pem
from webhook_kit import SECRET, Endpoint, Posted, raw_endpoint, verified

from fastsmtp import SMTPServer
from fastsmtp.delivery import (
    Client,
    DeliveryError,
    Promise,
    Receipt,
    Recipient,
    Record,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    deliver,
)
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.delivery.webhook import Webhook

BODY = b"Subject: hello\r\n\r\nworld\r\n"
PATIENCE = 60.0
OTHER = "whsec_" + base64.b64encode(b"another secret, of 32 octets too").decode()


def record(id: str = "session-1", body: bytes = BODY, **options: Any) -> Record:
    to = options.pop("to", ("b@example.org",))
    recipients = tuple(Recipient(each) for each in to)
    return Record(id, "a@example.org", recipients, body, headers=b"X-Ours: 1\r\n", **options)


def answering(status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> Any:
    octets = json.dumps(body).encode() if isinstance(body, dict) else body

    async def answer(posted: Posted) -> web.StreamResponse:
        return web.Response(
            status=status,
            body=octets,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return answer


def in_turn(*answers: Any) -> Any:
    left = list(answers)

    async def answer(posted: Posted) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(posted)

    return answer


@on_loops
async def test_a_message_is_posted_as_it_is_with_its_envelope() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        assert sink.promise is Promise.REMOTE
        sent = record(smtp_utf8=True, to=("bob@example.org", "ünï@example.org"))
        assert await sink.put(sent) == "202"
        (posted,) = endpoint.posts
        assert posted.body == b"X-Ours: 1\r\n" + BODY
        assert posted.headers["Content-Type"] == "message/rfc822"
        assert posted.headers["Webhook-Id"] == "session-1"
        assert abs(int(posted.headers["Webhook-Timestamp"]) - time.time()) < 60
        assert "Webhook-Signature" not in posted.headers
        envelope = posted.envelope
        assert envelope["mail_from"] == "a@example.org"
        assert [each["address"] for each in envelope["rcpt_to"]][1] == "ünï@example.org"
        assert envelope["fingerprint"] == sent.fingerprint


@pytest.mark.parametrize("form", ["raw", "multipart"])
@on_loops
async def test_whatever_a_client_says_of_itself_makes_a_valid_request(form: str) -> None:
    said = "".join(map(chr, range(1, 256))) + "\u2028\udcff"
    client = Client("192.0.2.7", said, said, said, said, said)
    sent = record(client=client, to=(said,), envid=said)
    async with Endpoint() as endpoint, Webhook(endpoint.url, secret=SECRET, form=form) as sink:
        assert await sink.put(sent) == "202"
        (posted,) = endpoint.posts
        assert verified(posted.headers, posted.body, SECRET)
        if form == "raw":
            assert posted.envelope["client"]["helo"] == said
            envelope = posted.headers["Fastsmtp-Envelope"].encode()
            assert verified(posted.headers, envelope, SECRET, "Fastsmtp-Envelope")


@pytest.mark.parametrize("form", ["raw", "multipart"])
@on_loops
async def test_a_request_is_signed_with_both_secrets_while_they_change(form: str) -> None:
    async with Endpoint() as endpoint:
        sink = Webhook(endpoint.url, secret=SECRET, previous_secret=OTHER, form=form)
        async with sink:
            await sink.put(record())
        (posted,) = endpoint.posts
        assert verified(posted.headers, posted.body, SECRET)
        assert verified(posted.headers, posted.body, OTHER)
        assert not verified(posted.headers, posted.body + b"x", SECRET)
        if form == "raw":
            envelope = posted.headers["Fastsmtp-Envelope"].encode()
            assert verified(posted.headers, envelope, SECRET, "Fastsmtp-Envelope")


@on_loops
async def test_connections_stay_open_and_no_more_requests_run_than_allowed() -> None:
    running = most = 0
    enough = asyncio.Event()

    async def answer(posted: Posted) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if most == 3:
            enough.set()
        await enough.wait()
        running -= 1
        return web.Response()

    async with Endpoint() as endpoint, Webhook(endpoint.url, parallel=3) as sink:
        endpoint.answer = answer
        await asyncio.gather(*[sink.put(record(f"session-{n}")) for n in range(30)])
        assert most == 3
        assert len(endpoint.connections) <= 4
        assert len(endpoint.posts) == 30


REPLY = {"code": 550, "enhanced_code": "5.1.1", "text": "No such user"}


@on_loops
async def test_an_endpoint_refuses_with_a_reply_of_its_own() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        endpoint.answer = answering(400, REPLY)
        with pytest.raises(Refused) as error:
            await sink.put(record())
        reply = error.value.reply
        assert (reply.response_code, reply.enhanced_code, reply.message) == (
            *(550, "5.1.1"),
            "No such user",
        )
        assert len(endpoint.posts) == 1


@on_loops
async def test_a_message_that_is_too_large_for_the_endpoint_is_552() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        endpoint.answer = answering(413)
        with pytest.raises(TooLarge):
            await sink.put(record())


@on_loops
async def test_an_envelope_that_is_too_long_for_a_header_is_too_many_recipients() -> None:
    many = [f"recipient-{number}@example.org" for number in range(300)]
    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        # aiohttp takes no header of more than 8,190 octets; others answer 400 instead of 431.
        with pytest.raises(Refused, match="HTTP 4") as error:
            await sink.put(record(to=many))
        assert error.value.reply.response_code == 554
        assert await sink.put(record(to=many[:1])) == "202"
        endpoint.answer = answering(400)
        with pytest.raises(Refused) as error:
            await sink.put(record(to=many[:90]))
        assert error.value.reply.response_code == 554
        async with Webhook(endpoint.url, deadline=0.2) as other:
            with pytest.raises(Unclear):
                await other.put(record(to=many[:1]))


@pytest.mark.parametrize("status, kind", [(500, Unclear), (404, Unavailable), (302, Unavailable)])
@on_loops
async def test_an_answer_that_is_no_refusal_is_tried_again_until_the_deadline(
    status: int, kind: type[DeliveryError]
) -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url, deadline=0.5) as sink:
        endpoint.answer = answering(status, b"", Location="http://127.0.0.1:1/x")
        with pytest.raises(kind) as error:
            await sink.put(record())
        assert error.value.reply.response_code == 451
        assert len({posted.headers["Webhook-Id"] for posted in endpoint.posts}) == 1


@on_loops
async def test_a_message_is_tried_again_with_the_same_id_and_then_accepted() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url, secret=SECRET) as sink:
        endpoint.answer = in_turn(answering(503), answering(500), answering(200))
        assert await sink.put(record()) == "200"
        assert [posted.headers["Webhook-Id"] for posted in endpoint.posts] == ["session-1"] * 3
        assert all(verified(posted.headers, posted.body, SECRET) for posted in endpoint.posts)


@on_loops
async def test_no_request_comes_before_the_end_of_retry_after() -> None:
    clock = asyncio.get_running_loop().time
    moments: list[float] = []

    async def answer(posted: Posted) -> web.StreamResponse:
        moments.append(clock())
        if len(moments) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response()

    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        endpoint.answer = answer
        await asyncio.gather(sink.put(record("a-1")), sink.put(record("a-2")))
        assert min(moments[2:]) - moments[0] >= 1.0


@on_loops
async def test_retry_after_beyond_the_deadline_refuses_at_once_and_at_mail() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url, deadline=5.0) as sink:
        endpoint.answer = answering(503, b"", Retry_After="120")
        with pytest.raises(Refused, match="Retry-After") as error:
            await sink.put(record())
        assert error.value.reply.response_code == 451
        refusal = sink.refusal()
        assert refusal is not None
        assert refusal.response_code == 451
        assert len(endpoint.posts) == 1


@on_loops
async def test_an_endpoint_that_is_down_refuses_mail_until_a_look_finds_it_up() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url, deadline=0.3) as sink:
        await endpoint.stop()
        for number in range(3):
            with pytest.raises((Unavailable, Unclear)):  # a try is under way, or none is
                await sink.put(record(f"a-{number}"))
            if sink.refusal() is not None:
                break
        assert sink.refusal() is not None
        await endpoint.start()
        async with asyncio.timeout(PATIENCE):
            while sink.refusal() is not None:
                await asyncio.sleep(0.01)
        assert await sink.put(record()) == "202"


# --- what a hostile or broken server does ---------------------------------------------------------


async def _endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def _endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Header: " + b"x" * 4000 + b"\r\n")
        await writer.drain()


async def _interim_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.001)


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example ESMTP\r\n\x00\xff\r\n\r\n")
    await writer.drain()


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def _cut_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
    await writer.drain()


@pytest.mark.parametrize(
    "serve",
    [_endless_headers, _interim_answers, _reset, _nonsense, _silence, _slow_body, _cut_body],
)
@on_loops
async def test_an_answer_that_does_not_come_or_makes_no_sense_is_unclear(serve: Any) -> None:
    async with raw_endpoint(serve) as url, Webhook(url, deadline=0.25, timeout=0.15) as sink:
        with pytest.raises(Unclear) as error:
            await sink.put(record())
        assert str(error.value)


@on_loops
async def test_of_an_endless_answer_only_the_beginning_is_read() -> None:
    async with raw_endpoint(_endless_body) as url, Webhook(url) as sink:
        assert await sink.put(record()) == "200"


@on_loops
async def test_an_answer_in_gzip_is_not_unpacked() -> None:
    async with Endpoint() as endpoint, Webhook(endpoint.url) as sink:
        endpoint.answer = answering(200, b"not gzip", Content_Encoding="gzip")
        assert await sink.put(record()) == "200"
        assert endpoint.posts[0].headers["Accept-Encoding"] == "identity"


# --- large bodies ---------------------------------------------------------------------------------


async def put_large(sink: Webhook, octets: bytes) -> Receipt:
    large = record(body=b"")
    writer = sink.begin(large)
    written = writer.write(octets)
    if written is not None:
        await written
    large.set_body(await writer.finish())
    return await sink.put(large)


@pytest.mark.parametrize("form", ["raw", "multipart"])
@on_loops
async def test_a_large_body_waits_in_the_store_and_is_gone_afterwards(
    tmp_path: Path, form: str
) -> None:
    octets = BODY + b"line\r\n" * 400_000
    async with Endpoint() as endpoint:
        sink = Webhook(endpoint.url, secret=SECRET, form=form, bodies=FileBodies(tmp_path))
        async with sink:
            assert (sink.max_record, sink.max_body) == (1024 * 1024, None)
            assert sink.promise is Promise.REMOTE
            assert await put_large(sink, octets) == "202"
            endpoint.answer = answering(400, REPLY)
            with pytest.raises(Refused):
                await put_large(sink, octets)
            async with asyncio.timeout(PATIENCE):
                while list(tmp_path.iterdir()):
                    await asyncio.sleep(0.01)
        first = endpoint.posts[0]
        assert verified(first.headers, first.body, SECRET)
        if form == "raw":
            assert first.body == b"X-Ours: 1\r\n" + octets
            assert "body" not in first.envelope


def test_without_a_store_a_message_may_be_as_large_as_memory_allows() -> None:
    sink = Webhook("https://example.org/")
    assert sink.max_record == sink.max_body == 32 * 1024 * 1024
    with pytest.raises(NotImplementedError):
        sink.begin(record())


# --- TLS, redirects, proxies, bad input -----------------------------------------------------------


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    return context


@on_loops
async def test_a_certificate_is_verified_with_the_authorities_of_ca() -> None:
    async with Endpoint(tls()) as endpoint:
        async with Webhook(endpoint.url, ca=ca_pem().decode()) as sink:
            assert sink.remarks == ()
            assert await sink.put(record()) == "202"
        sink = Webhook(endpoint.url)
        with pytest.raises(ValueError, match="ca: the certificate of the endpoint is not trusted"):
            await sink.start()
        wrong_name = endpoint.url.replace("localhost", "127.0.0.2")
        with pytest.raises((ValueError, Unavailable)):
            await Webhook(wrong_name, ca=ca_pem().decode()).start()
        assert len(endpoint.posts) == 1


@on_loops
async def test_a_moved_endpoint_is_an_error_at_start_that_tells_where_it_is() -> None:
    async with Endpoint() as endpoint:
        endpoint.answer_to_head = lambda: web.Response(status=308, headers={"Location": "/new"})
        with pytest.raises(ValueError, match="the endpoint is moved to '/new'"):
            await Webhook(endpoint.url).start()


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 abc nonsense\r\n\r\n")


async def _redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 307 x\r\nLocation: /m?token=geheim\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("serve", [_nonsense, _redirect])
@on_loops
async def test_the_query_of_the_url_is_in_no_error_of_a_message(serve: Any) -> None:
    async with (
        raw_endpoint(serve) as url,
        Webhook(f"{url}?token=geheim", deadline=0.5) as sink,
    ):
        with pytest.raises(DeliveryError) as caught:
            await sink.put(record())
    assert "geheim" not in str(caught.value)
    assert "geheim" not in str(sink)


@on_loops
async def test_the_query_of_a_moved_endpoint_is_not_shown() -> None:
    async with Endpoint() as endpoint:
        headers = {"Location": "/new?token=geheim"}
        endpoint.answer_to_head = lambda: web.Response(status=308, headers=headers)
        with pytest.raises(ValueError, match="the endpoint is moved to '/new', and"):
            await Webhook(endpoint.url).start()


@pytest.mark.parametrize("status", [200, 204, 401, 404, 405])
@on_loops
async def test_an_endpoint_that_answers_at_all_is_one_to_start_with(status: int) -> None:
    async with Endpoint() as endpoint:
        endpoint.answer_to_head = functools.partial(web.Response, status=status)
        async with Webhook(endpoint.url) as sink:
            assert sink.remarks == (
                "mail goes to the webhook unencrypted: its url begins with http://",
            )


@on_loops
async def test_an_endpoint_that_does_not_answer_or_fails_is_unavailable_at_start() -> None:
    async with Endpoint() as endpoint:
        endpoint.answer_to_head = lambda: web.Response(status=503)
        with pytest.raises(Unavailable, match="HTTP 503"):
            await Webhook(endpoint.url).start()
        url = endpoint.url
    with pytest.raises(Unavailable, match="no answer: Connection refused"):
        await Webhook(url).start()


@on_loops
async def test_requests_go_through_the_proxy_that_is_set() -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(b"POST")
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_endpoint(proxy) as url:
        proxied = Webhook("http://mail.invalid/in", proxy=url.removesuffix("/mail"))
        async with proxied as sink:
            assert await sink.put(record()) == "201"
    assert asked == [b"POST"]


@pytest.mark.parametrize(
    "url, options, text",
    [
        ("ftp://example.org", {}, "url takes"),
        ("https://", {}, "url takes"),
        ("https://example.org:port/", {}, "url takes"),
        ("https://exa mple.org/", {}, "url takes"),
        ("https://example.org/\r\nX: y", {}, "url takes"),
        ("https://user:hidden@example.org/", {}, "no credentials: set the header Authorization"),
        ("https://example.org/#part", {}, "after #"),
        ("https://example.org/", {"form": "xml"}, "form takes raw or multipart"),
        ("https://example.org/", {"parallel": 0}, "parallel takes"),
        ("https://example.org/", {"timeout": 0}, "timeout takes"),
        ("https://example.org/", {"deadline": -1}, "deadline takes"),
        ("https://example.org/", {"proxy": "socks5://hidden@x"}, "proxy takes"),
        ("https://example.org/", {"ca": "hidden"}, "ca takes"),
        ("https://example.org/", {"secret": "hidden"}, "secret takes whsec_"),
        ("https://example.org/", {"secret": "whsec_hidden"}, "secret takes whsec_"),
        ("https://example.org/", {"secret": "whsec_aGlkZGVu"}, "24 to 64 octets"),
        ("https://example.org/", {"previous_secret": SECRET}, "previous_secret needs secret"),
        ("https://example.org/", {"headers": {"Host": "hidden"}}, "headers cannot set 'Host'"),
        ("https://example.org/", {"headers": {"Webhook-Id": "hidden"}}, "headers cannot set"),
        ("https://example.org/", {"headers": {"X": "hidden\r\nY: z"}}, "the value of X"),
    ],
)
def test_arguments_that_cannot_be_right_are_named_and_secrets_are_not_shown(
    url: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as error:
        Webhook(url, **options)
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_name_in_log_lines_has_no_query() -> None:
    assert Webhook("https://example.org/in?token=hidden").where == "https://example.org/in"


# --- behind a server ------------------------------------------------------------------------------


async def submitted(port: int, body: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    replies = [await reader.readline()]
    for line in (b"HELO x\r\n", b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n"):
        writer.write(line)
        replies.append(await reader.readline())
    writer.write(b"DATA\r\n")
    replies.append(await reader.readline())
    writer.write(body + b".\r\nQUIT\r\n")
    replies += [line async for line in reader]
    writer.close()
    await writer.wait_closed()
    return replies


@pytest.mark.parametrize(
    "answer, reply",
    [
        (answering(200), b"250 2.6.0 OK: message delivered, id "),
        (answering(400, REPLY), b"550 5.1.1 No such user\r\n"),
        (answering(500), b"451 4.3.0 "),
    ],
    ids=["accepted", "refused", "failed"],
)
@on_loops
async def test_the_reply_of_the_client_is_that_of_the_endpoint(
    answer: Callable[[Posted], Any], reply: bytes
) -> None:
    async with Endpoint() as endpoint:
        endpoint.answer = answer
        delivery = deliver(Webhook(endpoint.url, deadline=0.2))
        async with SMTPServer(auth_optional=True, on_data=delivery) as server:
            await server.listen(0, "127.0.0.1")
            replies = await submitted(server.address()[1], BODY)
        assert replies[5].startswith(reply)
        assert BODY in endpoint.posts[0].body


@pytest.mark.parametrize(
    "answer, codes",
    [
        (answering(202), [250, 250]),
        (answering(400, {"code": 550}), [550, 550]),
        (answering(200, {"recipients": {"c@x.example": {"code": 452}}}), [250, 452]),
    ],
)
@on_loops
async def test_a_client_of_lmtp_gets_the_fate_of_each_recipient(
    answer: Callable[[Posted], Any], codes: list[int]
) -> None:
    def sent(port: int) -> list[int]:
        with smtplib.LMTP("127.0.0.1", port) as client:
            client.ehlo()
            client.mail("a@x.example")
            client.rcpt("b@x.example")
            client.rcpt("c@x.example")
            first = client.data(BODY)[0]
            return [first, client.getreply()[0]]

    async with Endpoint() as endpoint:
        endpoint.answer = answer
        delivery = deliver(Webhook(endpoint.url))
        async with SMTPServer(lmtp=True, auth_optional=True, on_data=delivery) as server:
            await server.listen(0, "127.0.0.1")
            assert await asyncio.to_thread(sent, server.address()[1]) == codes
        assert len(endpoint.posts) == 1


@on_loops
async def test_a_client_of_smtp_gets_no_250_when_one_recipient_is_refused() -> None:
    async with Endpoint() as endpoint:
        endpoint.answer = answering(200, {"recipients": {"b@y.example": {"code": 550}}})
        delivery = deliver(Webhook(endpoint.url))
        async with SMTPServer(auth_optional=True, on_data=delivery) as server:
            await server.listen(0, "127.0.0.1")
            replies = await submitted(server.address()[1], BODY)
        assert replies[5].startswith(b"550 ")

"""Publishes messages to a stream and waits until it has acknowledged them.

Several at a time are one atomic batch where the stream allows that: one answer for all of them. If
it has no room for all, or has one of them already, each is published by itself, all at once, and
gets an answer of its own. The stream drops a message whose id it has seen, and says so: a message
that is sent again is stored once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from fastsmtp.delivery.errors import DeliveryError, Full, TooLarge, Unavailable, Unclear
from fastsmtp.delivery.nats.link import Answer, Link

__all__ = ["Outgoing", "Publisher", "error_of"]

# Seconds for an answer. Longer than a new leader usually takes, so that most messages are sent
# twice at the most; a message that comes again is dropped, so it could be any time.
ANSWER: Final = 5.0
AGAIN: Final = 0.1  # seconds until a message is published again that nobody has taken
MOST_TOGETHER: Final = 1000  # messages of a batch, by the servers
# What the error numbers of JetStream mean; all others: it may have been stored.
_ERRORS: Final[dict[int, type[DeliveryError]]] = {
    10002: Full,  # resource limits exceeded for account
    10023: Full,  # insufficient resources
    10028: Full,  # JetStream memory resource limits exceeded
    10047: Full,  # JetStream storage resources exceeded
    10054: TooLarge,  # message size exceeds maximum allowed
    10077: Full,  # the store has failed: see `_NO_ROOM`
    10167: Full,  # too many requests
    10039: Unavailable,  # JetStream not enabled for account
    10060: Unavailable,  # expected stream does not match
    10076: Unavailable,  # JetStream not enabled
    10109: Unavailable,  # the stream is sealed
}
_STORE_FAILED: Final = 10077
# Parts of its texts for which there is no room; of all others it is not known what is stored.
_NO_ROOM: Final = ("maximum", "no space", "resource")


class Outgoing(NamedTuple):
    """One message. id: by which the stream recognises it, printable characters only."""

    id: str
    octets: bytes


class Publisher:
    """Publishes to `subject`, which belongs to `stream`."""

    def __init__(self, link: Link, stream: str, subject: str, *, is_atomic: bool) -> None:
        self._link = link
        self._stream = stream
        self._subject = subject
        self._is_atomic = is_atomic

    async def publish(self, messages: list[Outgoing]) -> list[str | DeliveryError]:
        """Return the place in the stream, or an error, for each message. Raises `Unavailable` and
        `Unclear` for all of them.

        A stream that has no leader for a moment, and a connection that is made anew, are waited
        for.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER
        while True:
            try:
                return await self._try(messages)
            except Unavailable:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(AGAIN)

    async def _try(self, messages: list[Outgoing]) -> list[str | DeliveryError]:
        if self._is_atomic and 1 < len(messages) <= MOST_TOGETHER:
            places = await self._together(messages)
            if places is not None:
                return places
        return await self._each(messages)

    async def try_out(self) -> None:
        """Publish a message that the stream refuses for its headers, to see that it answers.

        Raises ValueError if the login may not publish, `Unavailable` if nobody answers.
        """
        headers = {"Nats-Expected-Stream": f"not {self._stream}"}
        try:
            reply, answer = self._link.expect()
            await self._link.publish(self._subject, b"", headers, reply)
            async with asyncio.timeout(ANSWER):
                await answer
        except TimeoutError:
            self._link.check_rights()
            raise Unavailable(f"no answer to a message for {self._subject}") from None
        except Unclear as error:
            raise Unavailable(str(error)) from error
        finally:
            answer.cancel()

    async def _together(self, messages: list[Outgoing]) -> list[str | DeliveryError] | None:
        """Return the places, None if nothing was stored but part of it could be."""
        link = self._link
        reply, answer = link.expect()
        try:
            # The subject of the answer is unique, and so is what follows from it.
            batch = reply.partition(".")[2]
            given = [
                (
                    f"Nats-Msg-Id: {message.id}\r\n"
                    f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n",
                    message.octets,
                )
                for number, message in enumerate(messages, 1)
            ]
            lines, octets = given[-1]
            # The stream is checked for the whole batch.
            commit = f"Nats-Expected-Stream: {self._stream}\r\nNats-Batch-Commit: 1\r\n"
            given[-1] = lines + commit, octets
            await link.publish_together(self._subject, given, reply)
            async with asyncio.timeout(ANSWER):
                acknowledged = await answer
        except TimeoutError:
            raise Unclear(f"no answer within {ANSWER:g} seconds") from None
        finally:
            answer.cancel()
        if "error" in acknowledged or acknowledged.get("count") != len(messages):
            return None
        end = self._place(acknowledged) + 1
        return [f"{self._stream}:{place}" for place in range(end - len(messages), end)]

    async def _each(self, messages: list[Outgoing]) -> list[str | DeliveryError]:
        link, reason = self._link, ""
        answers: list[asyncio.Future[Answer]] = []
        try:
            for message in messages:
                reply, answer = link.expect()
                answers.append(answer)
                headers = {"Nats-Msg-Id": message.id, "Nats-Expected-Stream": self._stream}
                await link.publish(self._subject, message.octets, headers, reply)
        except Unavailable as error:
            # The connection is lost; those before this one may have been sent.
            if not answers[:-1]:
                raise
            answers.pop().cancel()
            reason = str(error)
        await asyncio.wait(answers, timeout=ANSWER)
        found = [self._result(answer) for answer in answers]
        if all(isinstance(result, Unavailable) for result in found):
            raise Unavailable(str(found[0]))
        return found + [Unavailable(reason)] * (len(messages) - len(found))

    def _result(self, answer: asyncio.Future[Answer]) -> str | DeliveryError:
        if not answer.done():
            answer.cancel()
            return Unclear(f"no answer within {ANSWER:g} seconds")
        try:
            acknowledged = answer.result()
            if "error" not in acknowledged:
                return f"{self._stream}:{self._place(acknowledged)}"
            return error_of(acknowledged["error"])
        except DeliveryError as error:
            return error

    def _place(self, acknowledged: Answer) -> int:
        """Return the number in the stream. Raises `Unclear` for the answer of another one."""
        stream, place = acknowledged.get("stream"), acknowledged.get("seq")
        if stream != self._stream or not isinstance(place, int):
            raise Unclear(f"an answer that is none of stream {self._stream}: {acknowledged!r:.200}")
        return place


def error_of(error: dict[str, Any]) -> DeliveryError:
    """Return what an error of JetStream, as its answers have it, means for the message."""
    number, text = error.get("err_code"), str(error.get("description"))
    kind = _ERRORS.get(number, Unclear) if isinstance(number, int) else Unclear
    if number == _STORE_FAILED and not any(words in text for words in _NO_ROOM):
        kind = Unclear
    return kind(f"{text} ({number})")

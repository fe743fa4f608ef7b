"""A handler of aiosmtpd with types, as a program of a user has it."""

from fastsmtp.compat.aiosmtpd.controller import Controller
from fastsmtp.compat.aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session, auth_mechanism


class Handler:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return f"250 {session.peer} {envelope.rcpt_tos}"

    @auth_mechanism("PLAIN")
    async def auth_plain(self, server: SMTP, args: list[str]) -> AuthResult:
        return AuthResult(success=True)


controller = Controller(Handler(), "127.0.0.1", 0, auth_require_tls=False)
controller.start()
controller.stop()

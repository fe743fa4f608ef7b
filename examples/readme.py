from fastsmtp import SMTPError, SMTPServer


def on_rcpt_to(address, session, callback):  # a plain function answers by calling back
    known = address.address.lower() == "bob@example.org"
    callback(None if known else SMTPError("No such user here", 550))


async def on_data(stream, session):  # a coroutine answers by returning, or raises SMTPError
    body = await stream.read()  # all of it, or an exception
    print(f"{len(body)} octets from {session.envelope.mail_from}", flush=True)
    return f"OK: stored as {session.id}"


server = SMTPServer(auth_optional=True, on_rcpt_to=on_rcpt_to, on_data=on_data)
server.run(port=2525, host="127.0.0.1")

from fastsmtp import SMTPError, SMTPServer


async def on_rcpt_to(address, session):
    if address.address.lower() != "bob@example.org":
        raise SMTPError("No such user here", 550)


async def on_data(stream, session):
    body = await stream.read()  # the whole message, or an exception
    print(f"{len(body)} octets from {session.envelope.mail_from}", flush=True)
    return f"OK: {len(body)} octets"  # the client gets its 250 now: store the message before


server = SMTPServer(auth_optional=True, on_rcpt_to=on_rcpt_to, on_data=on_data)
server.run(port=2525, host="127.0.0.1")

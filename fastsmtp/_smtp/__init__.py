"""The SMTP and LMTP rules without a socket, an event loop or a clock."""

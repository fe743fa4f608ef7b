"""The keyword arguments of `SMTPServer`, for annotations in programs and for editors.

    from fastsmtp.server_options import ServerOptions

The engine itself does not import this. Made by docs/make_server_options.py, which has the texts of
hooks, from fastsmtp/options.py, which has those of options: change it there.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Literal, TypedDict

from fastsmtp._options.given import HasReverse, NetworkList, PemSource, Resolve
from fastsmtp._options.of_session import SessionOptions
from fastsmtp.hook_types import (
    AuthMethod,
    CloseMethod,
    ConnectMethod,
    DataMethod,
    HeloMethod,
    MailFromMethod,
    OnAuth,
    OnClose,
    OnConnect,
    OnData,
    OnHelo,
    OnMailFrom,
    OnRcptTo,
    OnScram,
    OnSecure,
    OnVrfy,
    RcptToMethod,
    ScramMethod,
    SecureMethod,
    VrfyMethod,
)

__all__ = ["ServerOptions", "SessionOptions", "TLSOptions"]


class TLSOptions(TypedDict, total=False):
    """Options of TLS: of a server, of one name in `sni_options`, of a new certificate."""

    key: PemSource | None
    """The private key of `cert`. Takes a path (str or os.PathLike), PEM text as str or bytes, or
    None; default: None. RFC 3207 §4.
    """

    key_password: str | bytes | None
    """Decrypts `key`. Takes a str or bytes, or None; default: None."""

    cert: PemSource | None
    """The certificate, followed by its chain. Takes a path (str or os.PathLike), PEM text as str or
    bytes, or None; default: None. RFC 3207 §4.
    """

    ca: PemSource | None
    """The authorities that may have signed a client's certificate. Takes a path (str or
    os.PathLike), PEM text as str or bytes, or None; default: None. RFC 5280 §6.
    """

    request_cert: bool
    """Asks clients for a certificate. Default: False. RFC 8446 §4.3.2."""

    reject_unauthorized: bool
    """With `request_cert`: no connection without a certificate that `ca` has signed. Default: True.
    """

    min_version: Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
    """The oldest version of TLS. Default: 'TLSv1.2'. RFC 8996."""

    max_version: Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"] | None
    """The newest version of TLS. Default: None."""

    ciphers: str | None
    """Cipher suites up to TLS 1.2, as an OpenSSL cipher list. Takes a str of printable ASCII, or
    None; default: None. RFC 9325 §4.2.
    """

    honor_cipher_order: bool
    """Follows the server's order of cipher suites, not the client's. Default: True. RFC 9325
    §4.2.1.
    """

    sni_options: Mapping[str, TLSOptions | ssl.SSLContext] | None
    """TLS options by the host name that the client asks for. Takes a mapping of host names (str) to
    TLS options, or None; default: None. RFC 6066 §3.
    """

    ssl_context: ssl.SSLContext | None
    """A ready context, in place of all other TLS options. Takes an ssl.SSLContext, or None;
    default: None.
    """


class ServerOptions(TLSOptions, SessionOptions, total=False):
    """Options and hooks of a server. All have a default."""

    secure: bool
    """Expects a TLS handshake before the first octet of SMTP (implicit TLS). Default: False. RFC
    8314 §3.3.
    """

    secured: bool
    """Treats connections as secure, for a server after a proxy that terminates TLS. Default: False.
    RFC 3207 §4.
    """

    lmtp: bool
    """Speaks LMTP: LHLO in place of EHLO, and one reply per recipient after the message. Default:
    False. RFC 2033 §4.
    """

    greet_delay: float
    """Waits this long before the greeting and cuts clients that talk first. Takes seconds as an int
    or float, 0 or more; default: 0. RFC 5321 §4.3.1.
    """

    scram_iterations: int
    """Iteration count sent for unknown users; the keys of real users must have the same. Takes an
    int from 4096 to 1000000; default: 4096. RFC 7677 §4.
    """

    scram_secret: bytes | None
    """Derives the salts of unknown users; the same in all processes that serve one name. Takes
    bytes, 16 or more; None for random ones; default: 32 random octets per process. RFC 5802 §9.
    """

    max_clients: int | None
    """Connections at the same time; the next one gets 421. Takes an int, 0 or None for no limit;
    default: 0.8 × RLIMIT_NOFILE. RFC 5321 §3.8.
    """

    max_clients_per_host: int | None
    """Connections at the same time from one IPv4 address or IPv6 /64 net. Takes an int, 0 or None
    for no limit; default: None. RFC 5321 §7.8.
    """

    max_command_length: int
    """Octets of a command line, CR LF included (lines of AUTH: 12288). Takes an int of octets from
    512 to 65536; default: 2048. RFC 5321 §4.5.3.1.4.
    """

    tls_handshake_timeout: float
    """From the start of a TLS handshake to its end. Takes seconds as an int or float, more than 0;
    default: 15.
    """

    proxy_timeout: float
    """From the connection to the end of the PROXY header. Takes seconds as an int or float, more
    than 0; default: 5.
    """

    write_timeout: float
    """How long output may wait for a client that does not read. Takes seconds as an int or float,
    more than 0; default: 30.
    """

    hook_timeout: float
    """For every hook except `on_data`; then 451 or 421, and `on_close` is cancelled. Takes seconds
    as an int or float, more than 0; default: 30. RFC 5321 §4.5.3.2.2.
    """

    data_hook_timeout: float
    """For the answer of `on_data` to a whole message, and for each pause in its reading. Takes
    seconds as an int or float, more than 0; default: 240. RFC 5321 §4.5.3.2.6.
    """

    close_timeout: float
    """From `server.close()` until the remaining connections are cut. Takes seconds as an int or
    float, 0 or more; default: 30. RFC 5321 §3.8.
    """

    bare_newline_exclusions: NetworkList | Literal[False] | None
    """Networks whose clients get `accept`, whatever `bare_newline` says. Takes a list of networks
    (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: []. RFC 5321 §2.3.8.
    """

    allow_bare_lf_commands: NetworkList | Literal[False] | None
    """Networks whose clients may end commands, but never a message, with LF alone. Takes a list of
    networks (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: []. RFC 5321
    §2.3.8.
    """

    pipelining_exclusions: NetworkList | Literal[False] | None
    """Networks whose clients need not wait there, whatever `strict_pipelining` says. Takes a list
    of networks (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: []. RFC
    2920 §3.1.
    """

    use_proxy: NetworkList | Literal[False] | None
    """Networks of load balancers, which begin each connection with a PROXY header. Takes a list of
    networks (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: False.
    """

    use_xclient: NetworkList | Literal[False] | None
    """Networks whose clients may use XCLIENT to act for another client. Takes a list of networks
    (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: False.
    """

    use_xforward: NetworkList | Literal[False] | None
    """Networks whose clients may use XFORWARD to state where a message came from. Takes a list of
    networks (CIDR or address as str, 'unix' for UNIX sockets), None or False; default: False.
    """

    disable_reverse_lookup: bool
    """Does not look up the name of a client's address; it is `[address]` then. Default: False. RFC
    5321 §4.1.4.
    """

    resolver: Resolve | HasReverse | Literal["aiodns", "system"] | None
    """Finds the names of an address: a function, aiodns, or the resolver of the C library. Takes a
    function of an address (str) that returns or awaits a list of names, an object with such a
    method `reverse`, 'aiodns', 'system', or None for the first of these two that is there; default:
    None.
    """

    on_connect: OnConnect | None
    """A client has connected: greet it, or refuse it with 554 and close. The answer may be options
    for this session.
    """

    on_secure: OnSecure | None
    """A TLS handshake has succeeded: go on, or close."""

    on_helo: OnHelo | None
    """HELO, EHLO, LHLO: accept the greeting, or refuse it with 550. The answer may be the keywords
    of the reply to EHLO.
    """

    on_auth: OnAuth | None
    """The client has authenticated itself: answer with a user, or refuse it with 535."""

    on_scram: OnScram | None
    """SCRAM begins: answer with the keys of the user, or with None for an unknown one."""

    on_mail_from: OnMailFrom | None
    """MAIL: accept the sender, or refuse it with 550."""

    on_rcpt_to: OnRcptTo | None
    """RCPT: accept the recipient, or refuse it with 550."""

    on_vrfy: OnVrfy | None
    """VRFY: answer with the full name and the mailbox of a user, with None to tell nothing, or
    refuse with 550.
    """

    on_data: OnData | None
    """A message begins: read it and accept it, or refuse it with 450. LMTP takes a list with one
    answer for each recipient.
    """

    on_close: OnClose | None
    """The connection has ended. The result is ignored."""


class HookAttributes:
    """The hooks of a server as attributes, to be assigned or overridden by methods."""

    on_connect: OnConnect | ConnectMethod | None
    """A client has connected: greet it, or refuse it with 554 and close. The answer may be options
    for this session.
    """

    on_secure: OnSecure | SecureMethod | None
    """A TLS handshake has succeeded: go on, or close."""

    on_helo: OnHelo | HeloMethod | None
    """HELO, EHLO, LHLO: accept the greeting, or refuse it with 550. The answer may be the keywords
    of the reply to EHLO.
    """

    on_auth: OnAuth | AuthMethod | None
    """The client has authenticated itself: answer with a user, or refuse it with 535."""

    on_scram: OnScram | ScramMethod | None
    """SCRAM begins: answer with the keys of the user, or with None for an unknown one."""

    on_mail_from: OnMailFrom | MailFromMethod | None
    """MAIL: accept the sender, or refuse it with 550."""

    on_rcpt_to: OnRcptTo | RcptToMethod | None
    """RCPT: accept the recipient, or refuse it with 550."""

    on_vrfy: OnVrfy | VrfyMethod | None
    """VRFY: answer with the full name and the mailbox of a user, with None to tell nothing, or
    refuse with 550.
    """

    on_data: OnData | DataMethod | None
    """A message begins: read it and accept it, or refuse it with 450. LMTP takes a list with one
    answer for each recipient.
    """

    on_close: OnClose | CloseMethod | None
    """The connection has ended. The result is ignored."""

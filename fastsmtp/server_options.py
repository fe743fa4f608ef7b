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
from fastsmtp.hook_types import (
    AuthMethod,
    CloseMethod,
    ConnectMethod,
    DataMethod,
    MailFromMethod,
    OnAuth,
    OnClose,
    OnConnect,
    OnData,
    OnMailFrom,
    OnRcptTo,
    OnScram,
    OnSecure,
    RcptToMethod,
    ScramMethod,
    SecureMethod,
)

__all__ = ["ServerOptions", "TLSOptions"]


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


class ServerOptions(TLSOptions, total=False):
    """Options and hooks of a server. All have a default."""

    secure: bool
    """Expects a TLS handshake before the first octet of SMTP (implicit TLS). Default: False. RFC
    8314 §3.3.
    """

    secured: bool
    """Treats connections as secure, for a server after a proxy that terminates TLS. Default: False.
    RFC 3207 §4.
    """

    needs_upgrade: bool
    """Answers 530 until the client has started TLS with STARTTLS. Default: False. RFC 3207 §4."""

    name: str | None
    """Names the server in its greeting and in the answers to EHLO, HELO and LHLO. Takes a str of
    printable ASCII without spaces, 1 to 255 characters, None for the machine's name; default: the
    machine's host name. RFC 5321 §4.1.1.1, §4.3.1.
    """

    banner: str | None
    """Text after `ESMTP` or `LMTP` in the greeting. Takes a str of printable ASCII, empty or None
    for none; default: ''. RFC 5321 §7.5.
    """

    lmtp: bool
    """Speaks LMTP: LHLO in place of EHLO, and one reply per recipient after the message. Default:
    False. RFC 2033 §4.
    """

    helo_response: str
    """Begins the answer to EHLO, HELO, LHLO; `%s` is `name`, then the client's name. Takes a str of
    printable ASCII; default: '%s Nice to meet you, %s'. RFC 5321 §4.1.1.1.
    """

    greet_delay: float
    """Waits this long before the greeting and cuts clients that talk first. Takes seconds as an int
    or float, 0 or more; default: 0. RFC 5321 §4.3.1.
    """

    auth_methods: list[str] | tuple[str, ...]
    """Offers these mechanisms, in this order, as far as the connection allows them. Takes a list or
    tuple of mechanisms as str, in any case: PLAIN, LOGIN, CRAM-MD5, XOAUTH2, OAUTHBEARER,
    SCRAM-SHA-256, SCRAM-SHA-256-PLUS, EXTERNAL; default: ['LOGIN', 'PLAIN']. RFC 4954 §3.
    """

    auth_optional: bool
    """Takes mail from clients that have not authenticated. Default: False. RFC 4954 §6."""

    allow_insecure_auth: bool
    """Offers AUTH on connections without TLS. Default: False. RFC 4954 §4."""

    auth_required_message: str | None
    """Text of the 530 to clients that have to authenticate first. Takes a str of printable ASCII,
    empty or None for none; default: ''. RFC 4954 §6.
    """

    scram_iterations: int
    """Iteration count sent for unknown users; the keys of real users must have the same. Takes an
    int from 4096 to 1000000; default: 4096. RFC 7677 §4.
    """

    scram_secret: bytes | None
    """Derives the salts of unknown users; the same in all processes that serve one name. Takes
    bytes, 16 or more; None for random ones; default: 32 random octets per process. RFC 5802 §9.
    """

    hide_starttls: bool
    """Does not advertise STARTTLS; the command still works. Default: False. RFC 3207 §3."""

    hide_size: bool
    """Advertises SIZE without its value and checks only at the end of the message. Default: False.
    RFC 1870 §4.
    """

    hide_pipelining: bool
    """Does not advertise PIPELINING; pipelined commands still work. Default: False. RFC 2920 §3."""

    hide_dsn: bool
    """Switches DSN off: RET, ENVID, NOTIFY and ORCPT are answered 555. Default: False. RFC 3461 §4.
    """

    hide_enhancedstatuscodes: bool
    """Does not advertise ENHANCEDSTATUSCODES, and sends none. Default: False. RFC 2034 §4."""

    hide_requiretls: bool
    """Switches REQUIRETLS off: the parameter is answered 555. Default: False. RFC 8689 §2."""

    hide_8bitmime: bool
    """Switches 8BITMIME off, and with it SMTPUTF8 and BINARYMIME: BODY is answered 555. Default:
    False. RFC 6152 §3.
    """

    hide_smtputf8: bool
    """Switches SMTPUTF8 off: the parameter is answered 555, addresses are ASCII. Default: False.
    RFC 6531 §3.1.
    """

    hide_chunking: bool
    """Switches CHUNKING off, and with it BINARYMIME: BDAT is answered 502. Default: False. RFC 3030
    §2.
    """

    hide_binarymime: bool
    """Switches BINARYMIME off: BODY=BINARYMIME is answered 501. Default: True. RFC 3030 §3."""

    hide_limits: bool
    """Does not advertise LIMITS; the limits still apply. Default: False. RFC 9422 §3."""

    hide_mt_priority: bool
    """Switches MT-PRIORITY off: the parameter is answered 555. Default: True. RFC 6710."""

    hide_deliverby: bool
    """Switches DELIVERBY off: the parameter BY is answered 555. Default: True. RFC 2852."""

    hide_futurerelease: bool
    """Switches FUTURERELEASE off: HOLDFOR and HOLDUNTIL are answered 555. Default: True. RFC 4865.
    """

    future_release_max: int
    """The longest hold, in seconds, that FUTURERELEASE advertises and accepts. Takes an int of
    seconds from 1 to 999999999; default: 2592000. RFC 4865.
    """

    allow_unknown_params: bool
    """Passes unknown parameters of MAIL and RCPT to the hook in `args`; no 555. Default: False. RFC
    5321 §4.1.1.11.
    """

    lenient_address_parsing: bool | Literal["common"]
    """Accepts paths without `<>`, odd dots and `_` ('common'), or any with one `@` (True). Takes
    False, 'common' or True; default: False. RFC 5321 §4.1.2.
    """

    disabled_commands: list[str] | tuple[str, ...] | set[str] | frozenset[str]
    """Answers these as unknown commands. Without AUTH, no client has to authenticate. Takes a list,
    tuple or set of commands as str, in any case: HELO, EHLO, LHLO, MAIL, RCPT, DATA, BDAT, RSET,
    NOOP, VRFY, HELP, QUIT, AUTH, STARTTLS, XCLIENT, XFORWARD, EXPN, SEND, SOML, SAML, TURN, ETRN;
    default: []. RFC 5321 §4.5.1.
    """

    size: int | None
    """The largest message in octets: advertised, checked at MAIL, and enforced at the end. Takes an
    int of octets, 0 or None for no limit; default: 26214400. RFC 1870 §4.
    """

    max_clients: int | None
    """Connections at the same time; the next one gets 421. Takes an int, 0 or None for no limit;
    default: 0.8 × RLIMIT_NOFILE. RFC 5321 §3.8.
    """

    max_clients_per_host: int | None
    """Connections at the same time from one IPv4 address or IPv6 /64 net. Takes an int, 0 or None
    for no limit; default: None. RFC 5321 §7.8.
    """

    max_recipients: int | None
    """Accepted recipients of one message; each further one is answered 452. Takes an int up to
    999999, 0 or None for no limit; default: 1000. RFC 5321 §4.5.3.1.8.
    """

    max_messages: int | None
    """Accepted messages on one connection. Takes an int up to 999999, 0 or None for no limit;
    default: None. RFC 9422 §4.
    """

    max_command_length: int
    """Octets of a command line, CR LF included (lines of AUTH: 12288). Takes an int of octets from
    512 to 65536; default: 2048. RFC 5321 §4.5.3.1.4.
    """

    max_allowed_unauthenticated_commands: int | None
    """Commands without authentication; the last of them is answered 421. Takes an int, 0 or None
    for no limit; default: 10. RFC 5321 §7.8.
    """

    max_unrecognized_commands: int | None
    """Unknown commands since the last message; the last of them is answered 421. Takes an int, 0 or
    None for no limit; default: 10. RFC 5321 §7.8.
    """

    max_errors: int | None
    """Errors of the client since the last message; the last of them is answered 421. Takes an int,
    0 or None for no limit; default: 20. RFC 5321 §7.8.
    """

    max_junk_commands: int | None
    """NOOP, RSET, VRFY, tiny chunks and messages …; the last of them is answered 421. Takes an int,
    0 or None for no limit; default: 100. RFC 5321 §7.8.
    """

    max_auth_failures: int | None
    """Failed authentications of a connection; the last of them is answered 421. Takes an int, 0 or
    None for no limit; default: 3. RFC 4954 §4.
    """

    socket_timeout: float
    """From our last reply to the end of the next line; single octets do not extend it. Takes
    seconds as an int or float, more than 0; default: 300. RFC 5321 §4.5.3.2.7.
    """

    data_timeout: float
    """Time credit of a message body; every `min_data_rate` octets add a second to it. Takes seconds
    as an int or float, more than 0; default: 180. RFC 5321 §4.5.3.2.5.
    """

    min_data_rate: float
    """The rate, in octets per second, at which a body keeps its time credit. Takes octets per
    second as an int or float, more than 0; default: 500.
    """

    auth_timeout: float
    """From each 334 to the end of the client's answer. Takes seconds as an int or float, more than
    0; default: 60.
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

    bare_newline: Literal["reject", "normalize", "accept"]
    """CR or LF alone in a message: answer 550; or LF → CRLF, CR → space; or keep it. Default:
    'reject'. RFC 5321 §2.3.8.
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

    reject_nul: bool
    """Answers 550 to NUL in a message, except with BODY=BINARYMIME (RFC 3030 §3). Default: False.
    RFC 2045 §2.7, §2.8.
    """

    strict_pipelining: bool
    """Answers 554 and closes if input follows EHLO, AUTH or DATA before our reply. Default: True.
    RFC 2920 §3.1.
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
    """A client has connected: greet it, or refuse it with 554 and close."""

    on_secure: OnSecure | None
    """A TLS handshake has succeeded: go on, or close."""

    on_auth: OnAuth | None
    """The client has authenticated itself: answer with a user, or refuse it with 535."""

    on_scram: OnScram | None
    """SCRAM begins: answer with the keys of the user, or with None for an unknown one."""

    on_mail_from: OnMailFrom | None
    """MAIL: accept the sender, or refuse it with 550."""

    on_rcpt_to: OnRcptTo | None
    """RCPT: accept the recipient, or refuse it with 550."""

    on_data: OnData | None
    """A message begins: read it and accept it, or refuse it with 450. LMTP takes a list with one
    answer for each recipient.
    """

    on_close: OnClose | None
    """The connection has ended. The result is ignored."""


class HookAttributes:
    """The hooks of a server as attributes, to be assigned or overridden by methods."""

    on_connect: OnConnect | ConnectMethod | None
    """A client has connected: greet it, or refuse it with 554 and close."""

    on_secure: OnSecure | SecureMethod | None
    """A TLS handshake has succeeded: go on, or close."""

    on_auth: OnAuth | AuthMethod | None
    """The client has authenticated itself: answer with a user, or refuse it with 535."""

    on_scram: OnScram | ScramMethod | None
    """SCRAM begins: answer with the keys of the user, or with None for an unknown one."""

    on_mail_from: OnMailFrom | MailFromMethod | None
    """MAIL: accept the sender, or refuse it with 550."""

    on_rcpt_to: OnRcptTo | RcptToMethod | None
    """RCPT: accept the recipient, or refuse it with 550."""

    on_data: OnData | DataMethod | None
    """A message begins: read it and accept it, or refuse it with 450. LMTP takes a list with one
    answer for each recipient.
    """

    on_close: OnClose | CloseMethod | None
    """The connection has ended. The result is ignored."""

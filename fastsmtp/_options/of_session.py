"""The options that `on_connect` can answer with, public in `fastsmtp.server_options`.

The engine itself does not import this. Made by docs/make_server_options.py from
fastsmtp/options.py: change it there.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["SessionOptions"]


class SessionOptions(TypedDict, total=False):
    """Options of one session, as an answer of `on_connect`; also of a server."""

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

    helo_response: str
    """Begins the answer to EHLO, HELO, LHLO; `%s` is `name`, then the client's name. Takes a str of
    printable ASCII; default: '%s Nice to meet you, %s'. RFC 5321 §4.1.1.1.
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

    hide_rrvs: bool
    """Switches RRVS off: the parameter of RCPT is answered 555. Default: True. RFC 7293."""

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

    max_recipients: int | None
    """Accepted recipients of one message; each further one is answered 452. Takes an int up to
    999999, 0 or None for no limit; default: 1000. RFC 5321 §4.5.3.1.8.
    """

    max_messages: int | None
    """Accepted messages on one connection. Takes an int up to 999999, 0 or None for no limit;
    default: None. RFC 9422 §4.
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

    bare_newline: Literal["reject", "normalize", "accept"]
    """CR or LF alone in a message: answer 550; or LF → CRLF, CR → space; or keep it. Default:
    'reject'. RFC 5321 §2.3.8.
    """

    reject_nul: bool
    """Answers 550 to NUL in a message, except with BODY=BINARYMIME (RFC 3030 §3). Default: False.
    RFC 2045 §2.7, §2.8.
    """

    strict_pipelining: bool
    """Answers 554 and closes if input follows EHLO, AUTH or DATA before our reply. Default: True.
    RFC 2920 §3.1.
    """

"""Every option: what it takes, what it does, its default, and why that is the default.

In: what the user gave to `SMTPServer`, by name. Out: an `Options`, normalised, that never changes.
All checks are made here, once; the engine trusts the values. Raised: TypeError for an unknown name
or a wrong type, ValueError for a wrong value; the message shows what was given and what is allowed.
Hooks are not options: the server removes them first.
"""

from __future__ import annotations

import reprlib
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

from fastsmtp._options.kinds import (
    COMMAND_LENGTH,
    COUNT,
    DEADLINE,
    FLAG,
    HOLD,
    HOST_NAME,
    ITERATIONS,
    LENIENCY,
    LINE,
    LIST_COUNT,
    MECHANISMS,
    PASSWORD,
    PEM,
    RATE,
    RESOLVER,
    SECONDS,
    SECRET,
    SIZE,
    SNI,
    SSL_CONTEXT,
    TEXT,
    TLS_VERSION,
    VERBS,
    Group,
    Option,
    Refused,
    Resolver,
    WrongType,
    choice,
    networks,
    optional,
    row,
)
from fastsmtp._options.names import (
    ELSEWHERE,
    HOOKS,
    PER_SESSION,
    looks_like_hook,
    nearest_option,
)
from fastsmtp.descriptors import default_max_clients
from fastsmtp.networks import Networks

__all__ = ["HOOKS", "OPTIONS", "Networks", "Option", "Options", "parse_options"]
__all__ += ["check_together", "session_options", "tls_options"]


# A table: one row per option, in the order of the docs.
# fmt: off
@final
class Options:
    """The options of one server as the engine uses them, made and checked by `parse_options`.

    Durations are seconds as float. No deadline can be switched off.
    Sizes are octets. Limits are int, with 0 for "no limit".

    Not a dataclass: generating its methods for 60 fields would add 2 ms to every import.
    """

    # --- connection ---
    secure: bool = row(Group.CONNECTION, FLAG, False, "RFC 8314 §3.3",
        does="Expects a TLS handshake before the first octet of SMTP (implicit TLS).",
        reason="Port 25 begins in plaintext; implicit TLS belongs to port 465.")
    secured: bool = row(Group.CONNECTION, FLAG, False, "RFC 3207 §4",
        does="Treats connections as secure, for a server after a proxy that terminates TLS.",
        reason="The server cannot see it in the octets.")
    needs_upgrade: bool = row(Group.CONNECTION, FLAG, False, "RFC 3207 §4",
        does="Answers 530 until the client has started TLS with STARTTLS.",
        reason="A server that the public sends mail to must not demand TLS.")
    name: str = row(Group.CONNECTION, HOST_NAME, None, "RFC 5321 §4.1.1.1, §4.3.1",
        default_text="the machine's host name",
        does="Names the server in its greeting and in the answers to EHLO, HELO and LHLO.",
        reason="The greeting has to begin with a name, and the machine's own is the likeliest.")
    banner: str = row(Group.CONNECTION, TEXT, "", "RFC 5321 §7.5",
        does="Text after `ESMTP` or `LMTP` in the greeting.",
        reason="Names and versions of software mainly help attackers.")
    lmtp: bool = row(Group.CONNECTION, FLAG, False, "RFC 2033 §4",
        does="Speaks LMTP: LHLO in place of EHLO, and one reply per recipient after the message.",
        reason="LMTP is for delivery after a mail queue, never for port 25.")
    helo_response: str = row(Group.CONNECTION, LINE, "%s Nice to meet you, %s", "RFC 5321 §4.1.1.1",
        does="Begins the answer to EHLO, HELO, LHLO; `%s` is `name`, then the client's name.",
        reason="The text of smtp-server; it begins with the server's name, as the RFC demands.")
    greet_delay: float = row(Group.CONNECTION, SECONDS, 0, "RFC 5321 §4.3.1",
        does="Waits this long before the greeting and cuts clients that talk first.",
        reason="It costs every honest client; where it pays, Postfix's postscreen takes 6 seconds.")

    # --- authentication ---
    auth_methods: tuple[str, ...] = row(Group.AUTH, MECHANISMS, ("LOGIN", "PLAIN"), "RFC 4954 §3",
        does="Offers these mechanisms, in this order, as far as the connection allows them.",
        reason="The default of smtp-server, and what every mail program knows.")
    auth_optional: bool = row(Group.AUTH, FLAG, False, "RFC 4954 §6",
        does="Takes mail from clients that have not authenticated.",
        reason="As in smtp-server: accepting mail from strangers must be an explicit choice.")
    allow_insecure_auth: bool = row(Group.AUTH, FLAG, False, "RFC 4954 §4",
        does="Offers AUTH on connections without TLS.",
        reason="Passwords must not travel in plaintext.")
    auth_required_message: str = row(Group.AUTH, TEXT, "", "RFC 4954 §6",
        does="Text of the 530 to clients that have to authenticate first.",
        reason="Empty means the text of smtp-server, `Error: authentication Required`.")
    scram_iterations: int = row(Group.AUTH, ITERATIONS, 4096, "RFC 7677 §4",
        does="Iteration count sent for unknown users; the keys of real users must have the same.",
        reason="The minimum that the RFC recommends.")
    scram_secret: bytes = row(Group.AUTH, SECRET, None, "RFC 5802 §9", is_secret=True,
        default_text="32 random octets per process",
        does="Derives the salts of unknown users; the same in all processes that serve one name.",
        reason="A salt that is different at each try would show that the user does not exist.")

    # --- capabilities ---
    hide_starttls: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 3207 §3",
        does="Does not advertise STARTTLS; the command still works.",
        reason="Clients encrypt only if the server offers it.")
    hide_size: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 1870 §4",
        does="Advertises SIZE without its value and checks only at the end of the message.",
        reason="A client that knows the limit does not send what will be refused.")
    hide_pipelining: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 2920 §3",
        does="Does not advertise PIPELINING; pipelined commands still work.",
        reason="It saves round trips, and every server has to cope with it anyway.")
    hide_dsn: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 3461 §4",
        does="Switches DSN off: RET, ENVID, NOTIFY and ORCPT are answered 555.",
        reason="The parameters are passed to hooks, which decide what to do with them.")
    hide_enhancedstatuscodes: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 2034 §4",
        does="Does not advertise ENHANCEDSTATUSCODES, and sends none.",
        reason="They tell senders, and people who read bounces, what was wrong.")
    hide_requiretls: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 8689 §2",
        does="Switches REQUIRETLS off: the parameter is answered 555.",
        reason="It is offered inside TLS only, and hooks find it in the envelope.")
    hide_8bitmime: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 6152 §3",
        does="Switches 8BITMIME off, and with it SMTPUTF8 and BINARYMIME: BODY is answered 555.",
        reason="All eight bits pass unchanged.")
    hide_smtputf8: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 6531 §3.1",
        does="Switches SMTPUTF8 off: the parameter is answered 555, addresses are ASCII.",
        reason="Addresses and headers pass unchanged; hide it if you relay to older servers.")
    hide_chunking: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 3030 §2",
        does="Switches CHUNKING off, and with it BINARYMIME: BDAT is answered 502.",
        reason="BDAT and DATA look the same to a hook, and BDAT needs no dot-stuffing.")
    hide_binarymime: bool = row(Group.CAPABILITIES, FLAG, True, "RFC 3030 §3",
        does="Switches BINARYMIME off: BODY=BINARYMIME is answered 501.",
        reason="A relay must be able to convert such messages, so it is opt-in.")
    hide_limits: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 9422 §3",
        does="Does not advertise LIMITS; the limits still apply.",
        reason="A client that knows them splits its mail instead of being refused.")
    hide_mt_priority: bool = row(Group.CAPABILITIES, FLAG, True, "RFC 6710",
        does="Switches MT-PRIORITY off: the parameter is answered 555.",
        reason="Only the application can act on a priority, so it is opt-in.")
    hide_deliverby: bool = row(Group.CAPABILITIES, FLAG, True, "RFC 2852",
        does="Switches DELIVERBY off: the parameter BY is answered 555.",
        reason="Only the application can meet a delivery deadline, so it is opt-in.")
    hide_futurerelease: bool = row(Group.CAPABILITIES, FLAG, True, "RFC 4865",
        does="Switches FUTURERELEASE off: HOLDFOR and HOLDUNTIL are answered 555.",
        reason="Only the application can hold a message back, so it is opt-in.")
    future_release_max: int = row(Group.CAPABILITIES, HOLD, 2_592_000, "RFC 4865",
        does="The longest hold, in seconds, that FUTURERELEASE advertises and accepts.",
        reason="30 days; every message on hold occupies disk space.")
    hide_rrvs: bool = row(Group.CAPABILITIES, FLAG, True, "RFC 7293",
        does="Switches RRVS off: the parameter of RCPT is answered 555.",
        reason="Only the application knows since when a mailbox has its owner, so it is opt-in.")
    allow_unknown_params: bool = row(Group.CAPABILITIES, FLAG, False, "RFC 5321 §4.1.1.11",
        does="Passes unknown parameters of MAIL and RCPT to the hook in `args`; no 555.",
        reason="To accept a parameter is to promise its effect.")
    lenient_address_parsing: bool | str = row(Group.CAPABILITIES, LENIENCY, False,
        "RFC 5321 §4.1.2",
        does="Accepts paths without `<>`, odd dots and `_` ('common'), or any with one `@` (True).",
        reason="The RFC's grammar covers every valid address; old devices send others.")
    disabled_commands: frozenset[str] = row(Group.CAPABILITIES, VERBS, (), "RFC 5321 §4.5.1",
        does="Answers these as unknown commands. Without AUTH, no client has to authenticate.",
        reason="As in smtp-server; the RFC demands most of them.")

    # --- limits ---
    size: int = row(Group.LIMITS, SIZE, 26_214_400, "RFC 1870 §4",
        does="The largest message in octets: advertised, checked at MAIL, and enforced at the end.",
        reason="25 MiB lies between the defaults of Postfix (10 MB) and aiosmtpd (32 MiB).")
    max_clients: int = row(Group.LIMITS, COUNT, default_max_clients, "RFC 5321 §3.8",
        default_text="0.8 × RLIMIT_NOFILE",
        does="Connections at the same time; the next one gets 421.",
        reason="At the system's limit clients get no reply at all; hooks need the other files.")
    max_clients_per_host: int = row(Group.LIMITS, COUNT, None, "RFC 5321 §7.8",
        does="Connections at the same time from one IPv4 address or IPv6 /64 net.",
        reason="Many clients share the address of a large sender or a NAT; Postfix's limit is 50.")
    max_recipients: int = row(Group.LIMITS, LIST_COUNT, 1000, "RFC 5321 §4.5.3.1.8",
        does="Accepted recipients of one message; each further one is answered 452.",
        reason="Postfix's default; the RFC asks for at least 100.")
    max_messages: int = row(Group.LIMITS, LIST_COUNT, None, "RFC 9422 §4",
        does="Accepted messages on one connection.",
        reason="Another message on an open connection is cheaper than a new connection.")
    max_command_length: int = row(Group.LIMITS, COMMAND_LENGTH, 2048, "RFC 5321 §4.5.3.1.4",
        does="Octets of a command line, CR LF included (lines of AUTH: 12288).",
        reason="Postfix's default; the RFC asks for 512 and more for each extension.")
    max_allowed_unauthenticated_commands: int = row(Group.LIMITS, COUNT, 10, "RFC 5321 §7.8",
        does="Commands without authentication; the last of them is answered 421.",
        reason="The default of smtp-server.")
    max_unrecognized_commands: int = row(Group.LIMITS, COUNT, 10, "RFC 5321 §7.8",
        does="Unknown commands since the last message; the last of them is answered 421.",
        reason="What smtp-server has built in.")
    max_errors: int = row(Group.LIMITS, COUNT, 20, "RFC 5321 §7.8",
        does="Errors of the client since the last message; the last of them is answered 421.",
        reason="Postfix's default for the same (`smtpd_hard_error_limit`).")
    max_junk_commands: int = row(Group.LIMITS, COUNT, 100, "RFC 5321 §7.8",
        does="NOOP, RSET, VRFY, tiny chunks and messages …; the last of them is answered 421.",
        reason="Postfix's default for the same (`smtpd_junk_command_limit`).")
    max_auth_failures: int = row(Group.LIMITS, COUNT, 3, "RFC 4954 §4",
        does="Failed authentications of a connection; the last of them is answered 421.",
        reason="The minimum that the RFC wants a server to allow.")

    # --- deadlines ---
    socket_timeout: float = row(Group.DEADLINES, DEADLINE, 300, "RFC 5321 §4.5.3.2.7",
        does="From our last reply to the end of the next line; single octets do not extend it.",
        reason="The five minutes that the RFC asks for.")
    data_timeout: float = row(Group.DEADLINES, DEADLINE, 180, "RFC 5321 §4.5.3.2.5",
        does="Time credit of a message body; every `min_data_rate` octets add a second to it.",
        reason="The RFC gives a client three minutes for a block of data.")
    min_data_rate: float = row(Group.DEADLINES, RATE, 500,
        does="The rate, in octets per second, at which a body keeps its time credit.",
        reason="Postfix's default for the same (`smtpd_min_data_rate`).")
    auth_timeout: float = row(Group.DEADLINES, DEADLINE, 60,
        does="From each 334 to the end of the client's answer.",
        reason="Programs answer, not people: a minute is many round trips.")
    tls_handshake_timeout: float = row(Group.DEADLINES, DEADLINE, 15,
        does="From the start of a TLS handshake to its end.",
        reason="A handshake takes two round trips; asyncio's 60 seconds would help attackers.")
    proxy_timeout: float = row(Group.DEADLINES, DEADLINE, 5,
        does="From the connection to the end of the PROXY header.",
        reason="Its specification wants at least 3, so that a lost packet can be sent again.")
    write_timeout: float = row(Group.DEADLINES, DEADLINE, 30,
        does="How long output may wait for a client that does not read.",
        reason="Any progress restarts it, so slow clients do not reach it.")
    hook_timeout: float = row(Group.DEADLINES, DEADLINE, 30, "RFC 5321 §4.5.3.2.2",
        does="For every hook except `on_data`; then 451 or 421, and `on_close` is cancelled.",
        reason="Clients wait five minutes; a hook that takes a tenth of that is in trouble.")
    data_hook_timeout: float = row(Group.DEADLINES, DEADLINE, 240, "RFC 5321 §4.5.3.2.6",
        does="For the answer of `on_data` to a whole message, and for each pause in its reading.",
        reason="Clients wait ten minutes, and then they send the message again.")
    close_timeout: float = row(Group.DEADLINES, SECONDS, 30, "RFC 5321 §3.8",
        does="From `server.close()` until the remaining connections are cut.",
        reason="The default of smtp-server.")

    # --- line endings ---
    bare_newline: str = row(Group.NEWLINES, choice("reject", "normalize", "accept"), "reject",
        "RFC 5321 §2.3.8",
        does="CR or LF alone in a message: answer 550; or LF → CRLF, CR → space; or keep it.",
        reason="Where two servers treat it differently, mail can be forged (SMTP smuggling).")
    bare_newline_exclusions: Networks = row(Group.NEWLINES,
        networks("it would exclude every client, which is what bare_newline='accept' is for"), (),
        "RFC 5321 §2.3.8",
        does="Networks whose clients get `accept`, whatever `bare_newline` says.",
        reason="For old devices that cannot be fixed, and only for these.")
    allow_bare_lf_commands: Networks = row(Group.NEWLINES,
        networks("any client could then hide commands in a line that a relay passes on"), (),
        "RFC 5321 §2.3.8",
        does="Networks whose clients may end commands, but never a message, with LF alone.",
        reason="Only for old devices that cannot be fixed: it lets a relay's users forge commands.")
    reject_nul: bool = row(Group.NEWLINES, FLAG, False, "RFC 2045 §2.7, §2.8",
        does="Answers 550 to NUL in a message, except with BODY=BINARYMIME (RFC 3030 §3).",
        reason="NUL is rare, and most programs cope with it; one that stops there loses text.")

    # --- pipelining ---
    strict_pipelining: bool = row(Group.PIPELINING, FLAG, True, "RFC 2920 §3.1",
        does="Answers 554 and closes if input follows EHLO, AUTH or DATA before our reply.",
        reason="Spamware does that, mail servers do not; Postfix 3.9 refuses it too.")
    pipelining_exclusions: Networks = row(Group.PIPELINING,
        networks("it would exclude every client, which is what strict_pipelining=False is for"), (),
        "RFC 2920 §3.1",
        does="Networks whose clients need not wait there, whatever `strict_pipelining` says.",
        reason="For old devices that cannot be fixed, and only for these.")

    # --- proxying ---
    use_proxy: Networks = row(Group.PROXYING,
        networks("any client could then claim any address"), False,
        does="Networks of load balancers, which begin each connection with a PROXY header.",
        reason="A listed host can claim any address.")
    use_xclient: Networks = row(Group.PROXYING,
        networks("any client could then claim any address and login"), False,
        does="Networks whose clients may use XCLIENT to act for another client.",
        reason="A listed host can claim any address and login.")
    use_xforward: Networks = row(Group.PROXYING,
        networks("any client could then name any origin for its mail"), False,
        does="Networks whose clients may use XFORWARD to state where a message came from.",
        reason="Logs and filter rules rely on these statements.")

    # --- DNS ---
    disable_reverse_lookup: bool = row(Group.DNS, FLAG, False, "RFC 5321 §4.1.4",
        does="Does not look up the name of a client's address; it is `[address]` then.",
        reason="As in smtp-server; a lookup ends after 1.5 seconds, a dead resolver is not asked.")
    resolver: Resolver | None = row(Group.DNS, RESOLVER, None,
        does="Finds the names of an address: a function, aiodns, or the resolver of the C library.",
        reason="Lookups by aiodns (extra `dns`) need no threads; the C library has more sources.")

    # --- TLS ---
    key: str | bytes | None = row(Group.TLS, PEM, None, "RFC 3207 §4", is_secret=True,
        does="The private key of `cert`.",
        reason="A private key cannot come with the software.")
    key_password: str | bytes | None = row(Group.TLS, PASSWORD, None, is_secret=True,
        does="Decrypts `key`.",
        reason="Most server keys are not encrypted: a server must start without a person.")
    cert: str | bytes | None = row(Group.TLS, PEM, None, "RFC 3207 §4",
        does="The certificate, followed by its chain.",
        reason="Without one TLS is not configured, and STARTTLS is not offered.")
    ca: str | bytes | None = row(Group.TLS, PEM, None, "RFC 5280 §6",
        does="The authorities that may have signed a client's certificate.",
        reason="Which clients to trust cannot be guessed.")
    request_cert: bool = row(Group.TLS, FLAG, False, "RFC 8446 §4.3.2",
        does="Asks clients for a certificate.",
        reason="Some clients fail when they are asked.")
    reject_unauthorized: bool = row(Group.TLS, FLAG, True,
        does="With `request_cert`: no connection without a certificate that `ca` has signed.",
        reason="As in Node's tls: a certificate that is asked for should be checked.")
    min_version: str = row(Group.TLS, TLS_VERSION, "TLSv1.2", "RFC 8996",
        does="The oldest version of TLS.",
        reason="The RFC forbids those before it.")
    max_version: str | None = row(Group.TLS, optional(TLS_VERSION), None,
        does="The newest version of TLS.",
        reason="None means the newest that OpenSSL has.")
    ciphers: str | None = row(Group.TLS, optional(LINE), None, "RFC 9325 §4.2",
        does="Cipher suites up to TLS 1.2, as an OpenSSL cipher list.",
        reason="None means OpenSSL's choice, which is kept up to date with it.")
    honor_cipher_order: bool = row(Group.TLS, FLAG, True, "RFC 9325 §4.2.1",
        does="Follows the server's order of cipher suites, not the client's.",
        reason="As in smtp-server; the RFC recommends it: servers are better maintained.")
    sni_options: dict[str, object] | None = row(Group.TLS, SNI, None, "RFC 6066 §3", is_secret=True,
        does="TLS options by the host name that the client asks for.",
        reason="One name, one certificate is the usual case.")
    ssl_context: ssl.SSLContext | None = row(Group.TLS, SSL_CONTEXT, None,
        does="A ready context, in place of all other TLS options.",
        reason="The engine makes a context from the other options.")
    # fmt: on

    def __init__(self, values: Mapping[str, object]) -> None:
        """Take a value for each row. The instance's attributes hide the rows of the class."""
        vars(self).update(values)

    def replaced(self, **changes: object) -> Options:
        """Return a copy with `changes`."""
        return Options({**vars(self), **changes})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to option {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete option {name!r}")

    def __repr__(self) -> str:
        shown = [name for name in vars(self) if not OPTIONS[name].is_secret]
        return f"Options({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {name: one for name, one in vars(Options).items() if isinstance(one, Option)}
)


def parse_options(given: Mapping[str, object]) -> Options:
    """Check `given` and return it as `Options`, with defaults for all other options.

    TypeError: an unknown name (the message suggests the nearest one), or a value of a wrong type.
    ValueError: a value that the option does not take, or options that exclude each other.
    """
    for name in given:
        if name not in OPTIONS:
            raise TypeError(_unknown_option(name))
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        default = option.default() if callable(option.default) else option.default
        values[name] = _normalize(option, given.get(name, default))
    options = Options(values)
    check_together(options)
    return options


def tls_options(given: Mapping[str, object]) -> dict[str, Any]:
    """Check options of the group TLS: those of one server name, or of a change of certificates.

    Raises TypeError for any other option or a wrong type, ValueError for a wrong value.
    """
    for name in given:
        if name not in OPTIONS or OPTIONS[name].group is not Group.TLS:
            raise TypeError(f"{_short.repr(name)} is not a TLS option")
    return {name: _normalize(OPTIONS[name], value) for name, value in given.items()}


def session_options(given: Mapping[str, object]) -> dict[str, Any]:
    """Check options of one session. Raises TypeError for one that has had its effect before
    `on_connect`, and what `parse_options` raises.
    """
    for name in given:
        if name not in PER_SESSION:
            of_all = f"option {name!r} is one of the whole server, not of a session"
            raise TypeError(of_all if name in OPTIONS else _unknown_option(name))
    return {name: _normalize(OPTIONS[name], value) for name, value in given.items()}


def _normalize(option: Option, value: object) -> object:
    try:
        return option.kind.normalize(value)
    except Refused as refusal:
        error = TypeError if isinstance(refusal, WrongType) else ValueError
        what = f"option {option.name!r} takes {option.takes}, not {_shown(option, value)}"
        raise error(f"{what}: {refusal}" if str(refusal) else what) from None


def _shown(option: Option, value: object) -> str:
    kind = type(value).__name__
    if option.is_secret:
        return f"this {kind}"
    if isinstance(value, int) and value.bit_length() > 256:  # repr refuses very long ones
        return f"an {kind} of {value.bit_length()} bits"
    text = _short.repr(value)
    return text if value is None else f"{text} ({kind})"


def check_together(options: Options) -> None:
    """Raise ValueError for options that exclude each other."""
    if options.lmtp:
        for name, extension in (
            ("hide_pipelining", "PIPELINING"),
            ("hide_enhancedstatuscodes", "ENHANCEDSTATUSCODES"),
        ):
            if getattr(options, name):
                raise ValueError(
                    f"option {name!r} takes only False with lmtp=True: "
                    f"an LMTP server has to offer {extension}, RFC 2033 §5"
                )


def _unknown_option(name: object) -> str:
    if name in HOOKS:
        return f"{name!r} is a hook, not an option"
    unknown = f"unknown option {_short.repr(name)}"
    if name in ELSEWHERE:
        return f"{unknown}: {ELSEWHERE[str(name)]}"
    near = nearest_option(str(name), OPTIONS, HOOKS)
    if near:
        return f"{unknown}, did you mean {near!r}?"
    return f"{unknown}, hooks are {', '.join(HOOKS)}" if looks_like_hook(str(name)) else unknown


_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80

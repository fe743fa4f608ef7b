"""The options that are needed for every command, as plain numbers and flags with C types.

Made once per server. Code that needs an option once per connection or less uses `Options`.
"""

from __future__ import annotations

from typing import Final

from fastsmtp._wire.grammar import Leniency
from fastsmtp.options import Options

__all__ = ["Policy"]

LENIENCIES: Final[dict[bool | str, int]] = {
    False: int(Leniency.STRICT),
    "common": int(Leniency.COMMON),
    True: int(Leniency.LENIENT),
}

# Octets that are dropped beyond `size` before a client is cut: enough to reply to a message that is
# a little too large.
MIN_DROPPED: Final = 10 * 1024 * 1024
# Octets of memory for recipients: this average per recipient that may be accepted, and at least
# this much for all.
RECIPIENT_OCTETS: Final = 256
MIN_RECIPIENT_OCTETS: Final = 64 * 1024
# RCPT commands beyond this many times `max_recipients` make no progress and count as junk.
TRIES_PER_RECIPIENT: Final = 10


class Policy:
    """Durations in seconds, sizes in octets; 0 means no limit, as in `Options`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.lmtp = options.lmtp
        self.secured = options.secured
        self.enhanced = not options.hide_enhancedstatuscodes
        # With AUTH disabled no client could authenticate (RFC 4954 §6).
        self.auth_required = not options.auth_optional and "AUTH" not in options.disabled_commands
        self.needs_upgrade = options.needs_upgrade
        self.strict_pipelining = options.strict_pipelining
        self.leniency = LENIENCIES[options.lenient_address_parsing]
        self.speaks_for_others = bool(options.use_xclient or options.use_xforward)
        self.has_exclusions = bool(options.bare_newline_exclusions)
        self.has_lf_commands = bool(options.allow_bare_lf_commands)
        self.bare_newline = options.bare_newline
        self.reject_nul = options.reject_nul
        self.max_command_length = options.max_command_length
        self.size = options.size
        self.drop_limit = options.size + max(options.size, MIN_DROPPED) if options.size else 0
        self.max_recipients = options.max_recipients
        self.max_tried = TRIES_PER_RECIPIENT * options.max_recipients
        self.max_recipient_octets = 0
        if options.max_recipients:
            octets = RECIPIENT_OCTETS * options.max_recipients
            self.max_recipient_octets = max(octets, MIN_RECIPIENT_OCTETS)
        self.max_messages = options.max_messages
        self.max_errors = options.max_errors
        self.max_junk_commands = options.max_junk_commands
        self.max_unrecognized_commands = options.max_unrecognized_commands
        self.max_allowed_unauthenticated_commands = options.max_allowed_unauthenticated_commands
        self.max_auth_failures = options.max_auth_failures
        self.socket_timeout = options.socket_timeout
        self.data_timeout = options.data_timeout
        self.min_data_rate = options.min_data_rate
        self.hook_timeout = options.hook_timeout
        self.data_hook_timeout = options.data_hook_timeout

"""The runnable gateway: `fastsmtp serve` takes mail and delivers it into a Maildir, or serves an
application.

It uses the public APIs of the engine and of `fastsmtp.delivery`, which do not depend on it. `cli`
and `commands` read the command line, `config` checks it, `start` has what every server begins with,
`application` finds and serves applications, `reloading` restarts them, `service` runs the servers
of the gateway, `receiver` decides about recipients, `destination` about where mail goes, `log`
writes the log.
"""

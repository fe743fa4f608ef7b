"""The runnable gateway: `fastsmtp serve` takes mail and delivers it into a Maildir.

It uses the public APIs of the engine and of `fastsmtp.delivery`, which do not depend on it. `cli`
and `commands` read the command line, `config` checks it, `service` runs the servers, `receiver`
decides about recipients, `destination` about where mail goes, `log` writes the log.
"""

"""The runnable gateway: `fastsmtp serve` takes mail and delivers it into a Maildir.

It stands on the public API of the engine and of `fastsmtp.delivery`, and neither knows it. `cli`
and `commands` read the command line, `config` checks it, `service` runs the servers, `receiver`
knows the recipients, `destination` where mail goes, `log` writes the lines.
"""

"""The runnable gateway: `fastsmtp serve` takes mail and delivers it into a Maildir.

It stands on the engine's public API and nothing in the engine knows it. `cli` and `commands` read
the command line, `config` checks it, `service` runs the servers, `receiver` has the hooks, `trace`
writes the headers put on top of a message, `delivery` puts it on disk, `log` writes the lines.
"""

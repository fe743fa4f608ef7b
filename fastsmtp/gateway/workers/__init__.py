"""Several processes behind one set of addresses: `fastsmtp serve --workers`.

The parent has the sockets and no clients; workers are forks of it that serve. `run` starts it all;
`parent` keeps the workers, `changes` and `rollout` replace them, `child` is one of them as the
parent sees it, `worker` and `draining` as it sees itself. `sockets`, `inherited` and `steering` are
about who gets which client; `reactor`, `channel` and `notes` are the parent's loop, messages, log.
"""

"""`Config`: the checked configuration, the one value that everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastsmtp.delivery import Promise
from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.config.listeners import Listener
from fastsmtp.gateway.config.sinks import Target
from fastsmtp.networks import Networks

__all__ = ["Config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The checked configuration of `fastsmtp serve`. Paths are absolute; "" is "not given".

    application: module:attribute, "" for the gateway. listeners: empty only for an application,
    which then has an address by its protocol.
    name: our own host name, for the greeting and the trace header. options: engine options for each
    server that are not the default; those that the gateway sets itself are not among them.
    domains: keys of `domain_key`. recipients, discard, reject: parsed rules. Without domains and
    recipients, all are accepted.
    deliver: where mail goes. maildir: its directory, "" if mail goes elsewhere. require: what a 250
    must mean. on_unavailable: "refuse", or "spool": mail goes into the spool only while another
    machine does not take it. handoff_deadline: seconds in which it must take a message. tables: of
    sinks, by the names of `sinks.TABLES`; keys that are not given are not in them. spool: a
    directory. spool_quota: octets that the spool may hold.
    cert, key, client_ca, users: files. key_password: of `key`, and a secret. certificates: server
    name -> its TLS options, with paths. reject_unauthorized: clients need a certificate that
    client_ca has signed. auth_methods: of users.
    max_clients: 0 for as many as the limit on open files allows.
    workers: processes, 0 for one without a parent. steer_clients: clients of one address go to one
    worker. user, group: names or numbers. umask: None to leave it as it is. stay_root: serving as
    root is allowed. reload: restart an application when a file has changed. admin: where metrics
    and state are shown, None: nowhere. log_format: one of `FORMS`. log_file: "" for stdout and
    stderr. trace: whose wire is logged. admin_public: other machines may reach that.
    """

    application: str
    listeners: tuple[Listener, ...]
    name: str
    options: Mapping[str, Any]
    domains: frozenset[str]
    recipients: frozenset[str]
    discard: frozenset[str]
    reject: frozenset[str]
    deliver: Target
    maildir: str
    require: Promise
    on_unavailable: str
    handoff_deadline: float
    tables: Mapping[str, Mapping[str, Any]]
    spool: str
    spool_quota: int
    cert: str
    key: str
    key_password: str
    client_ca: str
    certificates: Mapping[str, Mapping[str, Any]]
    reject_unauthorized: bool
    users: str
    auth_methods: tuple[str, ...]
    max_clients: int
    workers: int
    steer_clients: bool
    user: str
    group: str
    umask: int | None
    stay_root: bool
    reload: bool
    verbose: bool
    log_format: str
    log_file: str
    trace: Networks
    admin: AdminAddress | None
    admin_public: bool

    def __repr__(self) -> str:
        return f"<Config {self.application or self.deliver}>"  # no password

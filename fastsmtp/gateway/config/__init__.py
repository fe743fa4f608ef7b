"""The configuration of `fastsmtp serve`: file, environment and flags as one checked value."""

from __future__ import annotations

from fastsmtp.gateway.config.domains import domain_key, parse_domain
from fastsmtp.gateway.config.errors import ConfigError
from fastsmtp.gateway.config.listeners import DEFAULT_LISTEN, Kind, Listener, parse_listener
from fastsmtp.gateway.config.loading import Loaded, load
from fastsmtp.gateway.config.model import Config
from fastsmtp.gateway.config.recipients import is_pattern, local_key, split_rule
from fastsmtp.gateway.config.schema import SCHEMA, Setting
from fastsmtp.gateway.config.tables import TLS_OPTIONS
from fastsmtp.gateway.config.text import example, shown_values

__all__ = [
    "DEFAULT_LISTEN",
    "SCHEMA",
    "TLS_OPTIONS",
    "Config",
    "ConfigError",
    "Kind",
    "Listener",
    "Loaded",
    "Setting",
    "domain_key",
    "example",
    "is_pattern",
    "load",
    "local_key",
    "parse_domain",
    "parse_listener",
    "shown_values",
    "split_rule",
]

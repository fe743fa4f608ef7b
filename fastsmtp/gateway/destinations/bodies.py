"""The body store of the gateway, for sinks on other machines: the table `bodies`."""

from __future__ import annotations

from typing import Any

from fastsmtp.delivery.bodies import BodyStore, FileBodies, S3Bodies
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.destinations.files import given_secret, given_text

__all__ = ["bodies_of"]

# Keys that are arguments of `S3Bodies` as they are.
_OF_S3 = (
    *("endpoint", "region", "access_key_id", "uploads", "timeout", "promise"),
    "orphan_age",
)


def bodies_of(config: Config) -> BodyStore | None:
    """Return the store that `bodies` names, not started; None without one. Raises OSError,
    ImportError, and ValueError that names the key.
    """
    table = config.tables["bodies"]
    if not table:
        return None
    url = table.get("url", "")
    try:
        if url.startswith("s3://"):
            given: dict[str, Any] = {key: table[key] for key in _OF_S3 if key in table}
            secret = given_secret(table, "secret_access_key")
            ca = given_text(table, "ca")
            return S3Bodies(url, secret_access_key=secret, ca=ca, **given)
        scheme, _, path = url.partition(":")
        if scheme != "file" or not path:
            raise ValueError(f"url takes file:DIRECTORY or s3://bucket/prefix, not {url!r:.200}")
        if unused := table.keys() - {"url", "orphan_age"}:
            raise ValueError(f"{min(unused)} is for s3://")
        return FileBodies(path, **{key: table[key] for key in ("orphan_age",) if key in table})
    except ValueError as error:
        raise ValueError(f"bodies: {error}") from error

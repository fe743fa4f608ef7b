"""PostgreSQL: a sink that stores mail in a table."""

from fastsmtp.delivery.postgres.sink import Postgres
from fastsmtp.delivery.postgres.table import schema

__all__ = ["Postgres", "schema"]

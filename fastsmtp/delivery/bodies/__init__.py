"""Body stores: where sinks on other machines keep bodies that are too large for a record."""

from fastsmtp.delivery.bodies.files import FileBodies
from fastsmtp.delivery.bodies.s3 import S3Bodies
from fastsmtp.delivery.bodies.store import BodyStore

__all__ = ["BodyStore", "FileBodies", "S3Bodies"]

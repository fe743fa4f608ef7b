"""Packages for programs that move here from other servers: they change an import."""

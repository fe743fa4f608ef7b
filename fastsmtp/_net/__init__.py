"""Sockets, timers and name look-ups."""

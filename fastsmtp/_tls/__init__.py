"""TLS without a connection: contexts, handshakes, records."""

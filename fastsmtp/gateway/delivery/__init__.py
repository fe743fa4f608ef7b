"""Where mail goes: one module per kind of destination."""

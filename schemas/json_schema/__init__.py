"""JSON Schema: which schemas a client may use, and which values suit them."""

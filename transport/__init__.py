"""Bytes and protocols: child processes, NDJSON, the front door. No policy."""

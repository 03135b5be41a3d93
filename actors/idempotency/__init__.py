"""Requests with an idempotency key: each is done once, and its answer given again."""

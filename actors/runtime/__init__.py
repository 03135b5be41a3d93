"""What every actor is built on: mailboxes and refs, the bus, background work."""

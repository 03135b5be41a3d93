"""What every actor is built on: mailboxes and refs, reply channels, the bus, background work."""

"""Accidents of several nodes on one PostgreSQL, and what they leave behind.

`cluster` starts the parts, `load` asks and takes notes, `injector` has the accidents, `checker`
reads the database and the notes afterwards. `python -m tests.accidents --help` runs them by hand.
"""

"""The demo CLI: a program that speaks the CLI's stream-json protocol and needs no account.

``ccapi serve --demo`` runs it, and so do tests, for which it misbehaves on request. Run as
``python -m ccapi.transport.demo_cli``; standard library only, so that it starts at once.
"""

"""Behaviour: who owns what, and what happens next."""

"""Watching a conversation: the broadcast of its events, and its history."""

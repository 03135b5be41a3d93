"""The log of a conversation: its exact messages and what became of its turns, and their JSON."""

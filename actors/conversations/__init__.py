"""Conversations: their directory, supervisor, lineage, models, workspaces and items."""

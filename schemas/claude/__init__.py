"""The wire formats of Claude Code and its API: lines to the CLI, lines from it, models, tools."""

"""The settings: every section with its defaults, descriptions and rules."""

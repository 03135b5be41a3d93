"""The link to one MCP server: by its standard input and output, by HTTP, by server-sent events."""

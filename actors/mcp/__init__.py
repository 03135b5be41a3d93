"""The gateway as the MCP client: one actor for each of the operator's servers, and what they offer
to conversations."""

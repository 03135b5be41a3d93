"""The Anthropic Messages API, as a dialect of the gateway's: its words, in and out."""

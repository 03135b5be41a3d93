"""OpenAI's wire formats: what requests ask, and how answers, items and events are written."""

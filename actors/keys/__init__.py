"""API keys: which there are, what each of them may do, and what it has used."""

"""Responses: a response as a job, how it runs, its record, and the store of records."""

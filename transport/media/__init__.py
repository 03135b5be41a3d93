"""Attachments: fetched by URL, read from local files, or decoded, within limits."""

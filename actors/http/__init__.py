"""The HTTP front: an ASGI application, its middleware, and one file for each group of routes."""

"""HTTP/1.1, HTTP/2 and WebSocket on real sockets, up to an ASGI application."""

"""The WebSocket front: who may open which WebSocket, and what is said on each."""

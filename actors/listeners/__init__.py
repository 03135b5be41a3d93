"""Actors that listen to the bus: the cache, the statistics and the overview."""

"""The words of the gateway: requests, replies, frames, events, errors and settings. No I/O."""

"""Tests of the Messages dialect's codecs."""

"""The benchmark: pairs measured in one run, on real parts. By hand: ``python -m tests.bench``."""

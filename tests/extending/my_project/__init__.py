"""A user's package, on PYTHONPATH: what a newcomer writes to change one part of Open-MAGVIT2."""

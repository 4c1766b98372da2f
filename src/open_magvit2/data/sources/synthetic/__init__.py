"""Images drawn by code, seeded: the built-in dataset of the demo, the tests and the debug configuration."""

from open_magvit2.data.sources.synthetic.images import SyntheticImages

__all__ = ["SyntheticImages"]

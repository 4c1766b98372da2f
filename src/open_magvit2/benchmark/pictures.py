"""Pictures of what was measured, as small SVG drawings for docs/performance.md."""

from collections.abc import Mapping
from typing import Any


def draw(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """File names and drawings of the sections that are there."""
    return {}

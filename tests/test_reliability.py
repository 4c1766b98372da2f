"""Every test that docs/reliability.md names exists."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()


def test_each_test_that_is_named_exists():
    paths = re.findall(r"`([\w/]+/test_\w+\.py|test_\w+\.py)`", PAGE)
    assert len(set(paths)) > 10
    assert [path for path in paths if not (TESTS / path).is_file()] == []

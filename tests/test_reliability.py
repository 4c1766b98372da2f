"""Every test that docs/reliability.md names as a proof exists."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "docs" / "reliability.md"


def test_each_proof_exists():
    proofs = 0
    for line in TABLE.read_text().splitlines():
        path = None
        for file, name in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?[^`]*`", line.rpartition("|")[0].rpartition("|")[2]):
            path = TESTS / file if file else path
            assert path is not None, line
            assert path.is_file(), f"{path}: {line}"
            assert not name or re.search(rf"def {name}\b", path.read_text()), f"{path} has no {name}"
            proofs += 1
    assert proofs > 25

"""Imports point one way: common, protocols -> layers -> quantizers, losses -> data, training -> rooms -> scripts.

Rooms never import each other; only evaluation/tokenizers may import a room; nothing imports scripts or benchmarks.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "open_magvit2"
LEAVES = {"common", "protocols"}
MODELS = LEAVES | {"layers", "quantizers", "losses"}
ROOMS = {"image_tokenizer", "video_tokenizer", "generators", "tokens", "evaluation"}
ALLOWED = {
    "__init__.py": {"common", "evaluation", "generators"},
    "protocols.py": set(),
    "common": {"protocols"},
    "layers": LEAVES,
    "quantizers": LEAVES | {"layers"},
    "losses": LEAVES | {"layers"},
    "data": LEAVES,
    "training": MODELS,
    **dict.fromkeys(ROOMS, MODELS | {"data", "training"}),
}


def imported_parts(path: Path) -> set[str]:
    """First components below `open_magvit2` of everything a file imports from the package."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("open_magvit2."):
                parts.add(name.split(".")[1])
            assert not name.startswith(("scripts", "benchmarks")), f"{path} imports {name}"
    return parts


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_file_imports_only_what_its_room_may(path):
    relative = path.relative_to(SOURCE)
    room = relative.parts[0]
    allowed = ALLOWED[room] | {room}
    if relative.parts[:2] == ("evaluation", "tokenizers"):
        allowed |= ROOMS
    assert imported_parts(path) <= allowed


def test_the_check_sees_imports(tmp_path):
    file = tmp_path / "file.py"
    file.write_text("from open_magvit2.losses import lecam\nimport open_magvit2.data.order\n")
    assert imported_parts(file) == {"losses", "data"}

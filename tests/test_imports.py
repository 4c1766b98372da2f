"""Imports point one way: the table of the README's reading order, enforced on the source."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "open_magvit2"
LEAVES = {"common", "protocols"}
ROOMS = {"image_tokenizer", "video_tokenizer", "autoregressive"}
ALLOWED = {
    "__init__.py": {"image_tokenizer"},
    "protocols.py": set(),
    "common": set(),
    "layers": LEAVES,
    "quantizers": LEAVES | {"layers"},
    "losses": LEAVES | {"layers"},
    "data": LEAVES,
    "training": LEAVES | {"layers", "quantizers", "losses"},
    "evaluation": LEAVES | {"losses"},
    "tokens": LEAVES,
    "benchmark": {"common", "protocols", "layers", "quantizers", "losses", "data", "training", "evaluation", "tokens"}
    | ROOMS,
    **dict.fromkeys(ROOMS, LEAVES | {"layers", "quantizers", "losses", "training"}),
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
            assert not name.startswith("scripts"), f"{path} imports a script"
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
    file.write_text("from open_magvit2.losses import lecam\nimport open_magvit2.data.sampler\n")
    assert imported_parts(file) == {"losses", "data"}

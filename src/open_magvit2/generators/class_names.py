"""Names of classes: ImageNet's, those of a folder of class folders, or of a list; and the class that a user means."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from open_magvit2.data.sources.image_folder import ImageFolder

_IMAGENET_CLASSES = 1000


def class_names(num_classes: int, source: str | Path | None = None) -> list[str]:
    """The name of every class, in the order of their numbers.

    Args:
        num_classes: of the generator.
        source: a folder of class folders, those that hold images numbered in sorted order as in training; or a text
            file, one name a line; None for ImageNet's names of 1000 classes, and for numbers otherwise.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: for another number of names than of classes, a folder that training would refuse, or a file that is
            no text.
    """
    if source is None:
        return imagenet_names() if num_classes == _IMAGENET_CLASSES else [str(number) for number in range(num_classes)]
    path = Path(source).expanduser()
    if path.is_dir():
        names = ImageFolder(path).classes
    elif path.is_file():
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}: expected a text file in UTF-8, one name a line, got {error}") from error
    else:
        raise FileNotFoundError(f"no folder or file with class names at {source}")
    if len(names) != num_classes:
        raise ValueError(f"{source} names {len(names)} classes, the generator has {num_classes}")
    return names


def imagenet_names() -> list[str]:
    """The 1000 names of ILSVRC2012's classes in the order of their synsets, from torchvision; all differ."""
    from torchvision.models import ResNet50_Weights  # metadata alone, nothing is downloaded

    return list(ResNet50_Weights.DEFAULT.meta["categories"])


def find_class(text: str, names: Sequence[str]) -> int:
    """The number of a class that a user typed: its number, or its name in any case; a part will do if only one has it.

    A name with its synonyms, as in ImageNet's list of synsets ("tench, Tinca tinca"), is found by the one that is here.

    Raises:
        ValueError: for none or several; it suggests names.
    """
    words = text.strip().lower()
    lower = [name.lower() for name in names]
    synonyms = [part.strip() for part in words.split(",") if not part.strip().isdecimal()]
    for accepted in ([words], synonyms):
        called = [number for number, name in enumerate(lower) if name in accepted]
        if len(called) > 1:
            listed = ", ".join(f"{number} {names[number]}" for number in called)
            raise ValueError(f"several classes are called {text!r}: {listed}; give the number of one")
        if called:
            return called[0]
    if words.isdecimal():
        if int(words) < len(names):
            return int(words)
        raise ValueError(f"class {words} is outside the table: expected 0 to {len(names) - 1}")
    having = [number for number, name in enumerate(lower) if words and words in name]
    if len(having) == 1:
        return having[0]
    similar = [names[number] for number in having] or difflib.get_close_matches(text, names, 5, 0.5)
    hint = f"; there are: {', '.join(similar[:8])}" if similar else ""
    raise ValueError(f"{'several classes have' if having else 'no class is called'} {text!r}{hint}")

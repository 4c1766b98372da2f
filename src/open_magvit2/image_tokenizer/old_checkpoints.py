"""Names of tensors in checkpoints of this project from before one `Adversary` held the discriminator and its loss."""

from typing import Any

_PREFIXES = {"discriminator.": "adversary.discriminator.", "discriminator_objective.lecam.": "adversary.lecam."}


def rename(checkpoint: dict[str, Any]) -> None:
    """Give the tensors of an old checkpoint of a training their present names, in place; a present one stays as it is.

    Args:
        checkpoint: the file's content: weights, their averages, and each rank's own buffers.
    """
    for key in ("state_dict", "current_model_state"):
        if key in checkpoint:
            checkpoint[key] = _renamed(checkpoint[key])
    for rank in checkpoint.get("resumption", {}).get("ranks", ()):
        rank["buffers"] = _renamed(rank["buffers"])


def _renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {_present_name(name): value for name, value in tensors.items()}


def _present_name(name: str) -> str:
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name

"""What must stand beside a figure wherever it is quoted: of how many images, which PSNR, and what is in doubt."""

from typing import Any

_KINDS = {
    "psnr_image": "per image",
    "psnr_image_trunc": "per image, truncated",
    "psnr_batch4": "batch of 4",
    "psnr_batch8": "batch of 8",
    "psnr_global": "all images at once",
}


def images(results: dict[str, Any]) -> str | None:
    """How many there were, "13 images", where that is not the protocol's number; else None."""
    number = results["num_images"]
    return None if number == results["protocol"]["num_images"] else f"{number:,} images"


def psnr_kind(name: str) -> str:
    """Which PSNR a figure is, in words: "batch of 4"."""
    return _KINDS.get(name, name)


def doubts(results: dict[str, Any]) -> list[str]:
    """What sets a result apart from those of a named protocol that passed the checks."""
    protocol, found = results["protocol"], []
    if results["status"] != "ok":
        found.append("check failed" if results["status"] == "sanity_failed" else results["status"])
    if protocol["name"] == "custom":
        original, _ = protocol["changes"].get("name", ["?", "custom"])
        changed = ", ".join(name for name in protocol["changes"] if name != "name")
        found.append(f"custom protocol: {original} with other {changed}")
    return found

"""Loading a published file in a fresh process: CPU seconds, and the peak of its memory against its weights.

The files have random weights and TiTok's shapes: S-128 (84 M parameters), or L-32 (641 M) at full size. On Linux alone:
the peak is VmHWM of /proc, since the one of `resource.getrusage` begins with that of the process that started this one.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from benchmarks.settings import Row, Settings
from open_magvit2.common.construction import build, class_path
from open_magvit2.evaluation.tokenizers import titok
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.vector import VectorQuantizer

TITLE = "Loading a tokenizer, fresh processes with warm file caches"

_SIZES = {  # of TiTok
    "S-128": {"width": 512, "num_blocks": 8, "num_latents": 128},
    "L-32": {"width": 1024, "num_blocks": 24, "num_latents": 32},
}
_SCRIPT = """
import json, pathlib, re, sys, time
from open_magvit2 import load_tokenizer
from open_magvit2.evaluation.tokenizers import _recognition
_recognition.families()
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before, cpu, wall = peak(), time.process_time(), time.monotonic()
tokenizer = load_tokenizer(sys.argv[1])
seconds = time.process_time() - cpu, time.monotonic() - wall
num_bytes = sum(value.numel() * value.element_size() for value in tokenizer.state_dict().values())
print(json.dumps([*seconds, (peak() - before) / num_bytes, num_bytes]))
"""


class Loading(NamedTuple):
    """What loading a file took."""

    cpu_seconds: float
    wall_seconds: float
    peak_per_weights: float  # bytes that the process grew by at most, over those of the weights
    num_bytes: int  # of the weights


def random_file(size: str, path: Path) -> Path:
    """Write a TiTok file of a size with random weights: a folder with safetensors, or a file of PyTorch's.

    Args:
        size: "S-128" or "L-32".
        path: a folder, or one that ends with .bin.

    Returns:
        the path.
    """
    with torch.device("meta"):
        tokenizer = build(_description(**_SIZES[size]))
    shapes = {titok.published_name(name, {}): value.shape for name, value in tokenizer.state_dict().items()}
    state = {name: torch.empty(shape).uniform_(-0.02, 0.02) for name, shape in shapes.items()}
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        path.mkdir()
        safetensors.torch.save_file(state, path / "model.safetensors")
    return path


def load_in_a_process(path: Path) -> Loading:
    """Load a file in a process of its own, whose memory grew by nothing else."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, str(path)], check=True, capture_output=True, text=True)
    return Loading(*json.loads(done.stdout))


def measure(settings: Settings) -> Iterator[Row]:
    """One row a container; the least CPU time of a few processes, after one that fills the file cache."""
    size = "L-32" if settings.full else "S-128"
    for container in ("titok (safetensors)", "titok.bin"):
        with tempfile.TemporaryDirectory() as folder:
            path = random_file(size, Path(folder) / container)
            found = [load_in_a_process(path) for _ in range(1 + min(3, settings.repeats))][1:]
        yield {
            "table": TITLE,
            "file": f"TiTok {size}, {container.removeprefix('titok').strip(' .()')}",
            "GB": found[0].num_bytes / 1e9,
            "CPU s": min(loading.cpu_seconds for loading in found),
            "wall s": min(loading.wall_seconds for loading in found),
            "peak / weights": max(loading.peak_per_weights for loading in found),
        }


def _description(width: int, num_blocks: int, num_latents: int) -> dict:
    """A TiTok of the paper's kind."""

    def part(kind: type, **arguments: object) -> dict:
        return {"class_path": class_path(kind), "init_args": arguments}

    sizes = {"latent_channels": 12, "width": width, "num_blocks": num_blocks, "num_latents": num_latents}
    decoder = part(Decoder, latent_channels=256, **titok.MASKGIT)
    head = part(titok.CodeMixture, width=width, codebook_size=1024, decoder=decoder)
    return part(
        ImageTokenizer,
        encoder=part(titok.TiTokEncoder, **sizes, reshaped=True),
        decoder=part(titok.TiTokDecoder, **sizes, head=head),
        quantizer=part(VectorQuantizer, codebook_size=4096, latent_channels=12, normalized=True),
    )

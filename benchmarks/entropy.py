"""The entropy penalty against the softmax over all 2^K codes: time and peak memory by tokens N and bits K."""

from collections.abc import Callable

import torch

from benchmarks import machine
from benchmarks.baseline_networks import all_codes, softmax_entropies
from benchmarks.memory import peak_memory
from benchmarks.settings import OUT_OF_MEMORY, Row, Settings, not_measured, unless_out_of_memory
from benchmarks.timing import clock_name, interleaved
from open_magvit2.quantizers.entropy import entropy_penalty

TITLE = "Entropy penalty, forward and backward"

_FULL_TOKENS, _FULL_BITS = (256, 1024, 2048, 4096, 16_384, 65_536), (10, 12, 14, 16, 18, 20, 22, 24)
_SMALL_TOKENS, _SMALL_BITS = (256, 512, 2048), (10, 14, 18)
_PLAIN_TENSORS = 5  # [N, 2^K] in float32 that the softmax holds at its peak, as measured where it fits
_MOST_ELEMENTS_QUICK = 2**26  # of such a tensor: a CPU takes seconds a call


def measure(settings: Settings) -> list[Row]:
    """One row for every N and K; at small sizes on a CPU."""
    tokens, bits = (_FULL_TOKENS, _FULL_BITS) if settings.full else (_SMALL_TOKENS, _SMALL_BITS)
    tokens, bits = settings.tokens or tokens, settings.bits or bits
    return [_row(number, num_bits, settings) for num_bits in bits for number in tokens]


def _row(number: int, num_bits: int, settings: Settings) -> Row:
    device = settings.device
    latent = (torch.randn(number, num_bits, generator=torch.Generator().manual_seed(0)) * 0.02).to(device)
    latent.requires_grad_()

    def ours() -> None:
        sample, codebook = entropy_penalty(latent)
        torch.autograd.grad(sample - codebook, latent)

    reason = _why_not_plain(number, num_bits, settings)
    functions: dict[str, Callable[[], None]] = {"ours": ours}
    if reason is None:
        codes = all_codes(num_bits, device, torch.float32)

        def plain() -> None:
            sample, codebook = softmax_entropies(latent, codes)
            torch.autograd.grad(sample - codebook, latent)

        if unless_out_of_memory(lambda: plain() or True):
            functions["plain"] = plain
        else:
            reason = OUT_OF_MEMORY
    times = interleaved(functions, device, settings.repeats)
    memory = {name: peak_memory(function, device).num_bytes for name, function in functions.items()}
    unit = clock_name(device)
    return {
        "table": TITLE,
        "K": num_bits,
        "N": number,
        f"exact [{unit}]": times["ours"].median,
        f"softmax [{unit}]": times["plain"].median if reason is None else not_measured(reason),
        "time ratio": times["plain"].median / times["ours"].median if reason is None else None,
        **(
            {"softmax, of it the system [CPU s]": times["plain"].system}
            if reason is None and device.type == "cpu"
            else {}
        ),
        "exact [MiB]": memory["ours"] / 2**20,
        "softmax [MiB]": memory["plain"] / 2**20 if reason is None else not_measured(reason),
        "memory ratio": memory["plain"] / memory["ours"] if reason is None else None,
    }


def _why_not_plain(number: int, num_bits: int, settings: Settings) -> str | None:
    """Why the softmax is not run at a size, or None where it is."""
    elements = number * 2**num_bits
    needed = _PLAIN_TENSORS * 4 * elements
    if needed > 0.9 * machine.free_memory(settings.device):
        return f"would need about {needed / 2**30:.0f} GiB"
    quick = settings.device.type == "cpu" and not settings.full and settings.tokens is None
    if quick and elements > _MOST_ELEMENTS_QUICK:
        return "too slow for the quick mode"
    return None

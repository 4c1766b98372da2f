"""Peak rates of GPUs by precision, from their data sheets: the denominator of MFU (model FLOPs utilization).

NVIDIA's data sheets "V100 Tensor Core GPU" (2020), "A100 Tensor Core GPU" (2021), "H100 Tensor Core GPU" (2022 for the
PCIe card, else 2024) and "H200 Tensor Core GPU" (2024). Those of H100 and H200 state tensor cores with sparsity: half
of it is dense. A device that is not in the table has no peak here: it is never guessed.
"""

import re

import torch

Rates = dict[str, float]

# What torch.cuda.get_device_name says, as a whole (older drivers leave the maker out) -> dense TFLOP/s: float32 outside
# and inside (TF32) tensor cores, float16 and bfloat16 with sums in float32.
_A100 = {"fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0}
_HOPPER_SXM = {"fp32": 67.0, "tf32": 494.5, "fp16": 989.5, "bf16": 989.5}
_HOPPER_NVL = {"fp32": 60.0, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5}
_PEAKS: dict[str, Rates] = {
    r"Tesla V100-SXM2-\d+GB": {"fp32": 15.7, "fp16": 125.0},
    r"Tesla V100-PCIE-\d+GB": {"fp32": 14.0, "fp16": 112.0},
    r"Tesla V100S-PCIE-32GB": {"fp32": 16.4, "fp16": 130.0},
    r"(NVIDIA )?A100-(SXM4|PCIE|PCIe)-\d+GB": _A100,
    r"(NVIDIA )?A100 80GB PCIe": _A100,
    r"(NVIDIA )?H100 PCIe": {"fp32": 51.0, "tf32": 378.0, "fp16": 756.5, "bf16": 756.5},
    r"(NVIDIA )?H100 80GB HBM3": _HOPPER_SXM,
    r"(NVIDIA )?H100 NVL": _HOPPER_NVL,
    r"(NVIDIA )?H200": _HOPPER_SXM,
    r"(NVIDIA )?H200 NVL": _HOPPER_NVL,
}


def rates(name: str) -> Rates:
    """TFLOP/s by precision of a GPU of this name; empty where no data sheet is in the table.

    The whole name must fit: a slice of a GPU ("... MIG 1g.10gb") and a relative ("RTX A1000") have other peaks.
    """
    return next((peak for pattern, peak in _PEAKS.items() if re.fullmatch(pattern, name)), {})


def peak(device: torch.device, precision: str) -> tuple[float | None, str]:
    """Operations a second that a device could do at most, and who says so.

    Args:
        device: a CPU has no entry.
        precision: fp32, bf16 or fp16 of a training; fp32's convolutions run in TF32 where PyTorch may use it.

    Returns:
        (FLOP/s, source), or (None, why not).
    """
    if device.type != "cuda":
        return None, "no data sheet for a CPU"
    known = rates(torch.cuda.get_device_name(device))
    kind = "tf32" if precision == "fp32" and "tf32" in known and torch.backends.cudnn.allow_tf32 else precision
    if kind not in known:
        return None, f"no data sheet with {kind} for this device"
    return known[kind] * 1e12, f"data sheet, {kind}"

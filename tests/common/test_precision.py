"""Precision: settings hold inside and come back after, bfloat16 is refused, taken or warned of as it should be."""

import pytest
import torch

from open_magvit2.common import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("tf32", [False, True])
def test_settings_hold_inside_and_come_back_after(tf32):
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    cudnn.benchmark = True
    try:
        with torch.autocast("cpu", torch.bfloat16), precision.float32("cpu", tf32):
            assert cudnn.enabled  # without it a GPU's convolutions are slow and know no TF32
            assert cudnn.deterministic
            assert not cudnn.benchmark
            assert cudnn.allow_tf32 == tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
            assert not torch.is_autocast_enabled("cpu")
        assert cudnn.benchmark
        assert not cudnn.deterministic
        assert torch.get_float32_matmul_precision() == before
    finally:
        cudnn.benchmark = False


def test_only_networks_asked_for_in_bfloat16_run_so():
    layer, image = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with precision.float32("cpu"), precision.autocast(CPU, name):
            assert layer(image).dtype == dtype
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, got 'fp16'"):
        precision.autocast(CPU, "fp16")


@pytest.mark.parametrize(
    ("features", "slow"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("flags\t\t: fpu avx512f avx512_bf16", False),
        ("Features\t: fp asimd i8mm bf16", False),
        (None, False),  # not Linux: not known
    ],
)
def test_a_cpu_without_bfloat16_units_is_warned_of_once(features, slow, tmp_path, monkeypatch, caplog):
    if features is not None:
        (tmp_path / "cpuinfo").write_text(features)
    monkeypatch.setattr(precision, "_CPU_FEATURES", tmp_path / "cpuinfo")
    precision._warn_where_slow.cache_clear()
    for name in ("fp32", "bf16", "bf16"):
        precision.autocast(CPU, name)
        assert bool(caplog.messages) == (slow and name == "bf16")
    precision._warn_where_slow.cache_clear()
    assert len(caplog.messages) == slow
    assert not slow or "this CPU has no bfloat16 units" in caplog.text

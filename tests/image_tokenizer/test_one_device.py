"""What a training step computes stays on the device of its images.

"meta" stands for a GPU here: a device that is not the CPU, whose elementwise operations refuse to mix the two, and
whose tensors have no value that a host could ask for.
"""

from contextlib import nullcontext

import pytest
import torch
from small_training import module

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast_of_meta(monkeypatch):
    """PyTorch knows none."""
    autocast = torch.autocast

    def autocast_elsewhere(device_type, *args, **kwargs):
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast_elsewhere)


@pytest.mark.usefixtures("random_vgg")
@pytest.mark.parametrize("recompute", ["none", "activations", "blocks"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_losses_and_gradients_stay_on_the_device_of_the_images(recompute, adaptive):
    losses = {"objective": {"perceptual_weight": 1.0}, "adversary": {"adaptive_weight": adaptive}}
    training = module(**losses, recompute=recompute).to(META)
    batches = [torch.empty(2, 3, 32, 32, dtype=torch.uint8, device=META) for _ in range(2)]
    terms = training.accumulate_gradients(batches)
    assert {"generator/perceptual", "generator/codebook_entropy", "discriminator/lecam", "psnr"} <= set(terms)
    computed = {name: term.device for name, term in terms.items() if name != "generator/adversarial_weight" or adaptive}
    assert set(computed.values()) == {META}  # the other one is a number of the config, which the host keeps
    gradients = [p.grad for p in training.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.device == META for gradient in gradients)


def test_a_tensor_left_on_the_cpu_is_noticed():
    training = module().to(META)
    training.adversary.lecam.to_empty(device="cpu")
    batch = torch.empty(2, 3, 32, 32, dtype=torch.uint8, device=META)
    with pytest.raises(RuntimeError, match="device"):
        training.accumulate_gradients([batch])

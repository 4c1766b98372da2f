"""FSQ, BSQ, VQ, IBQ, residual and grouped LFQ: against closed forms, brute force, and the formulas in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from open_magvit2.common.construction import build, describe
from open_magvit2.quantizers import index_backprop
from open_magvit2.quantizers.binary_spherical import BinarySphericalQuantizer
from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.index_backprop import IndexBackpropagationQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.quantizers.residual import GroupedLookupFreeQuantizer, ResidualLookupFreeQuantizer
from open_magvit2.quantizers.vector import VectorQuantizer

SMALL = {
    "fsq": lambda: FiniteScalarQuantizer((8, 5, 4)),
    "lfq by groups of bits": lambda: LookupFreeQuantizer(7, entropy_group_bits=3),
    "bsq": lambda: BinarySphericalQuantizer(7),
    "bsq msb": lambda: BinarySphericalQuantizer(7, bit_order="most_significant_first"),
    "bsq by bits": lambda: BinarySphericalQuantizer(7, entropy_group_bits=1),
    "vq": lambda: VectorQuantizer(32, 6),
    "vq normalized": lambda: VectorQuantizer(32, 6, normalized=True),
    "vq normalized latent": lambda: VectorQuantizer(32, 6, normalized_latent=True),
    "vq ema": lambda: VectorQuantizer(32, 6, ema_decay=0.9, restart_below=0.1),
    "ibq": lambda: IndexBackpropagationQuantizer(32, 6),
    "residual": lambda: ResidualLookupFreeQuantizer(5, 3),
    "grouped": lambda: GroupedLookupFreeQuantizer(8, 2),
}


@pytest.fixture(params=SMALL, name="quantizer")
def _quantizer(request):
    torch.manual_seed(0)
    return SMALL[request.param]()


def _latent(quantizer, *grid, dtype=torch.float32):
    return torch.randn(2, quantizer.latent_channels, *grid, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(4, 3), (5,), (2, 3, 4)])
def test_shapes_dtypes_and_the_round_trip_of_indices(quantizer, grid):
    latent = _latent(quantizer, *grid)
    quantizer.eval()
    output = quantizer(latent)
    codes, indices = quantizer.quantize(latent)
    number = getattr(quantizer, "indices_per_position", 1)
    assert indices.shape == (2, *grid, *((number,) if number > 1 else ()))
    assert indices.dtype == torch.int64
    assert indices.min() >= 0
    assert indices.max() < quantizer.codebook_size
    assert output.codes.shape == latent.shape
    assert torch.equal(output.indices, indices)
    assert_close(output.codes, codes, rtol=0, atol=1e-6)
    assert_close(quantizer.indices_to_codes(indices), codes, rtol=0, atol=1e-6)


def test_every_loss_is_a_finite_scalar_with_a_weight_and_trains_the_latent(quantizer):
    latent = _latent(quantizer, 4, 4).requires_grad_()
    output = quantizer(latent)
    assert set(output.losses) == set(quantizer.loss_weights)
    total = output.codes.square().sum() + sum(
        weight * output.losses[name] for name, weight in quantizer.loss_weights.items()
    )
    total.backward()
    assert total.isfinite()
    assert latent.grad.isfinite().all()
    assert latent.grad.abs().sum() > 0


def test_a_checkpoint_rebuilds_it(quantizer):
    rebuilt = build(describe(quantizer))
    rebuilt.load_state_dict(quantizer.state_dict())
    latent = _latent(quantizer, 3, 3)
    assert torch.equal(rebuilt.quantize(latent)[1], quantizer.quantize(latent)[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_codes_of_its_own_type_and_losses_in_float32(quantizer, dtype):
    output = quantizer(_latent(quantizer, 4, 4, dtype=dtype).requires_grad_())
    assert output.codes.dtype == dtype
    assert {loss.dtype for loss in output.losses.values()} <= {torch.float32}


def test_mistakes_are_named(quantizer):
    channels = quantizer.latent_channels
    with pytest.raises(ValueError, match=rf"{channels}.*\(1, {channels + 1}, 2, 2\)"):
        quantizer.quantize(torch.zeros(1, channels + 1, 2, 2))
    shape = (1, 2, 2, getattr(quantizer, "indices_per_position", 1))
    shape = shape[:3] if shape[3] == 1 else shape
    with pytest.raises(ValueError, match=str(quantizer.codebook_size)):
        quantizer.indices_to_codes(torch.full(shape, quantizer.codebook_size))
    with pytest.raises(ValueError, match="float32"):
        quantizer.indices_to_codes(torch.zeros(shape))


def test_all_fsq_codes_are_a_grid_in_the_unit_cube():
    quantizer = FiniteScalarQuantizer((4, 3))
    codes = quantizer.indices_to_codes(torch.arange(12).view(1, 12))[0].T
    expected = [[a, b] for b in (-1.0, 0.0, 1.0) for a in (-1.0, -0.5, 0.0, 0.5)]
    assert codes.tolist() == expected


def test_fsq_reaches_every_level_and_bounds_what_lies_outside():
    quantizer = FiniteScalarQuantizer((8, 5))
    latent = torch.linspace(-9, 9, 4001, dtype=torch.float64).expand(1, 2, -1)
    codes, _ = quantizer.quantize(latent)
    assert [len(channel.unique()) for channel in codes[0]] == [8, 5]
    assert codes.min() == -1
    assert codes[0].max(dim=1).values.tolist() == [0.75, 1.0]


def test_fsq_gradient_is_that_of_the_bound():
    quantizer = FiniteScalarQuantizer((5,))
    latent = torch.tensor([[[0.3]]], dtype=torch.float64, requires_grad=True)
    quantizer(latent).codes.sum().backward()
    half = 4 * 1.001 / 2
    assert latent.grad.item() == pytest.approx(half * (1 - math.tanh(0.3) ** 2) / 2, rel=1e-12)


def test_bsq_entropies_equal_the_softmax_over_all_codes():
    quantizer = BinarySphericalQuantizer(5, inverse_temperature=3.0)
    latent = _latent(quantizer, 4, 4, dtype=torch.float64)
    losses = quantizer(latent).losses
    unit = F.normalize(latent.movedim(1, -1).reshape(-1, 5), dim=1)
    corners = quantizer.indices_to_codes(torch.arange(32).view(1, 32))[0].T.double()
    assert_close(corners.norm(dim=1), torch.ones(32, dtype=torch.float64), rtol=0, atol=1e-6)
    probabilities = (3.0 * unit @ (corners.sign() / math.sqrt(5)).T).softmax(dim=1)
    average = probabilities.mean(dim=0)
    assert losses["sample_entropy"].item() == pytest.approx(
        -(probabilities * probabilities.log()).sum(dim=1).mean().item(), rel=1e-9
    )
    assert losses["codebook_entropy"].item() == pytest.approx(-(average * average.log()).sum().item(), rel=1e-9)


def test_bsq_by_bits_is_the_papers_bound():
    latent = _latent(BinarySphericalQuantizer(6), 5, 5, dtype=torch.float64)
    exact = BinarySphericalQuantizer(6, 2.0)(latent).losses["codebook_entropy"]
    bound = BinarySphericalQuantizer(6, 2.0, entropy_group_bits=1)(latent).losses["codebook_entropy_bound"]
    bits = (2 * 2.0 * F.normalize(latent, dim=1) / math.sqrt(6)).sigmoid().mean(dim=(0, 2, 3))
    independent = -(bits * bits.log() + (1 - bits) * (1 - bits).log()).sum()
    assert bound.item() == pytest.approx(independent.item(), rel=1e-9)
    assert exact <= bound


def test_bsq_ignores_the_length_of_a_latent():
    quantizer = BinarySphericalQuantizer(6)
    latent = _latent(quantizer, 3, 3)
    assert_close(quantizer(latent * 7).losses, quantizer(latent).losses)


def test_bsq_has_either_order_of_bits():
    latent = _latent(BinarySphericalQuantizer(5), 3, 3)
    first, last = (BinarySphericalQuantizer(5, bit_order=f"{which}_significant_first") for which in ("most", "least"))
    bits = (latent > 0).long()
    powers = torch.tensor([16, 8, 4, 2, 1])[:, None, None]
    assert torch.equal(first.quantize(latent)[1], (bits * powers).sum(1))
    assert torch.equal(last.quantize(latent)[1], (bits * powers.flip(0)).sum(1))
    assert torch.equal(first.quantize(latent)[0], last.quantize(latent)[0])


@pytest.mark.parametrize(("normalized", "latent_alone"), [(False, False), (True, False), (False, True)])
def test_vq_takes_the_nearest_code_by_brute_force_in_any_number_of_chunks(normalized, latent_alone, monkeypatch):
    quantizer = VectorQuantizer(50, 4, normalized=normalized, normalized_latent=latent_alone)
    quantizer.codebook.data.normal_(generator=torch.Generator().manual_seed(0))
    latent = _latent(quantizer, 6, 6, dtype=torch.float64)
    vectors, codes = latent.movedim(1, -1).reshape(-1, 4), quantizer.codebook.double()
    if normalized or latent_alone:
        vectors = F.normalize(vectors, dim=1)
    if normalized:
        codes = F.normalize(codes, dim=1)
    expected = torch.cdist(vectors, codes).argmin(dim=1).view(2, 6, 6)
    assert torch.equal(quantizer.quantize(latent)[1], expected)
    monkeypatch.setattr("open_magvit2.quantizers.vector._CHUNK_ELEMENTS", 7 * 50)
    assert torch.equal(quantizer.quantize(latent)[1], expected)


def test_vq_losses_and_gradients_are_those_of_the_paper():
    quantizer = VectorQuantizer(10, 3).double()
    quantizer.codebook.data.normal_()
    latent = _latent(quantizer, 4, 4, dtype=torch.float64).requires_grad_()
    output = quantizer(latent)
    weights = torch.randn_like(latent)
    ((output.codes * weights).sum() + output.losses["codebook"] + 0.25 * output.losses["commitment"]).backward()
    vectors = latent.detach().movedim(1, -1).reshape(-1, 3)
    chosen = quantizer.codebook.detach()[output.indices.flatten()]
    difference = vectors - chosen
    expected = weights.movedim(1, -1).reshape(-1, 3) + 0.25 * 2 * difference / difference.numel()
    assert_close(latent.grad.movedim(1, -1).reshape(-1, 3), expected, rtol=1e-12, atol=1e-15)
    of_codes = torch.zeros(10, 3, dtype=torch.float64)
    of_codes.index_add_(0, output.indices.flatten(), -2 * difference / difference.numel())
    assert_close(quantizer.codebook.grad, of_codes, rtol=1e-12, atol=1e-15)


def test_vq_moving_averages_converge_to_the_means_of_their_latents_and_move_in_training_alone():
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    quantizer = VectorQuantizer(3, 2, ema_decay=0.5)
    quantizer.codebook.data.copy_(centres + 0.5)
    quantizer.cluster_sums.copy_(quantizer.codebook)
    latent = (centres[torch.arange(60) % 3] + 0.1 * torch.randn(60, 2)).T[None]
    means = torch.stack([latent[0, :, i::3].mean(dim=1) for i in range(3)])
    before = copy.deepcopy(quantizer.state_dict())
    quantizer.eval()(latent)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    quantizer.train()
    for _ in range(40):
        assert set(quantizer(latent).losses) == {"commitment"}
    assert_close(quantizer.codebook.data, means, rtol=0, atol=1e-4)


def test_vq_restarts_codes_that_nobody_uses():
    torch.manual_seed(0)
    latent = torch.randn(1, 2, 256)
    used = {}
    for restart_below in (0.0, 1.0):
        quantizer = VectorQuantizer(64, 2, ema_decay=0.8, restart_below=restart_below)
        quantizer.codebook.data.copy_(torch.cat([torch.zeros(1, 2), torch.full((63, 2), 50.0)]))
        quantizer.cluster_sums.copy_(quantizer.codebook)
        for _ in range(30):
            indices = quantizer(latent).indices
        used[restart_below] = len(indices.unique())
    assert used[0.0] == 1
    assert used[1.0] > 32


def test_vq_moving_averages_move_once_a_step_in_any_number_of_micro_batches():
    piece = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    whole, split = (VectorQuantizer(1, 2, ema_decay=0.5).double() for _ in range(2))
    split.load_state_dict(whole.state_dict())
    before = whole.codebook.clone()
    whole(piece.repeat(4, 1, 1, 1))
    split.step_fraction = 0.25
    for _ in range(4):
        split(piece)
    for name, value in whole.state_dict().items():
        assert_close(split.state_dict()[name], value)
    assert not torch.equal(split.codebook, before)


def test_averages_in_16_bits_are_refused():
    quantizer = VectorQuantizer(4, 2, ema_decay=0.9).to(torch.bfloat16)
    with pytest.raises(ValueError, match="the codebook has moving averages.*bf16-mixed"):
        quantizer(torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16))
    quantizer.eval()(torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16))  # they only stand still in training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_are_exact_whatever_the_latent_s_size(dtype):
    latent = (torch.randn(2, 8, 16, 16) * 1000).to(dtype).requires_grad_()
    codes = LookupFreeQuantizer(8)(latent).codes
    assert (codes.abs() == 1).all()
    codes.sum().backward()
    assert (latent.grad == 1).all()


def test_vq_moving_averages_survive_a_batch_that_is_not_finite():
    quantizer = VectorQuantizer(4, 2, ema_decay=0.9, restart_below=0.1)
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(torch.full((1, 2, 3), math.nan))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def _plain_ibq(quantizer, latent):
    """Algorithm 1 of the paper with [N, V] matrices."""
    vectors = latent.movedim(1, -1).reshape(-1, quantizer.latent_channels)
    logits = vectors @ quantizer.codebook.T
    soft = logits.softmax(dim=1)
    hard = F.one_hot(logits.argmax(dim=1), quantizer.codebook_size).to(soft)
    codes = (hard - soft.detach() + soft) @ quantizer.codebook
    chosen = hard @ quantizer.codebook
    sharp = (logits / quantizer.temperature).softmax(dim=1)
    average = sharp.mean(dim=0)
    losses = {
        "quantization": (codes - vectors).square().mean(),
        "commitment": (chosen.detach() - vectors).square().mean(),
        "codebook": (chosen - vectors.detach()).square().mean(),
        "sample_entropy": -(sharp * sharp.clamp_min(1e-300).log()).sum(dim=1).mean(),
        "codebook_entropy": -(average * (average + quantizer.entropy_eps).log()).sum(),
    }
    return codes, losses


@pytest.mark.parametrize("chunk", [2**24, 5 * 20])
def test_ibq_equals_the_algorithm_of_the_paper_in_value_and_gradient(chunk, monkeypatch):
    monkeypatch.setattr(index_backprop, "_CHUNK_ELEMENTS", chunk)
    quantizer = IndexBackpropagationQuantizer(20, 4, temperature=0.3).double()
    latent = _latent(quantizer, 3, 4, dtype=torch.float64).requires_grad_()
    output = quantizer(latent)
    codes, losses = _plain_ibq(quantizer, latent)
    weights = torch.randn_like(codes)
    for name, value in losses.items():
        assert output.losses[name].item() == pytest.approx(value.item(), rel=1e-12), name

    def gradients(values, terms):
        total = (values * weights).sum() + sum((i + 1.5) * term for i, term in enumerate(terms))
        return torch.autograd.grad(total, [latent, quantizer.codebook])

    ours = gradients(output.codes.movedim(1, -1).reshape(codes.shape), [output.losses[name] for name in losses])
    assert_close(ours, gradients(codes, losses.values()), rtol=1e-9, atol=1e-12)


def test_residual_levels_halve_the_error_and_add_up():
    quantizer = ResidualLookupFreeQuantizer(4, 5)
    latent = torch.rand(2, 4, 6, 6, dtype=torch.float64) * 4 - 2  # sum of 2^-l reaches nearly 2
    codes, indices = quantizer.quantize(latent)
    assert (latent - codes).abs().max() <= 2.0**-4
    first = LookupFreeQuantizer(4).indices_to_codes(indices[..., 0])
    assert torch.equal(first, torch.where(latent > 0, 1.0, -1.0))


def test_grouped_is_lfq_of_each_slice_and_reaches_beyond_one_index():
    quantizer = GroupedLookupFreeQuantizer(40, 2, entropy_eps=0.0)
    assert (quantizer.codebook_size, quantizer.indices_per_position) == (2**20, 2)
    small = GroupedLookupFreeQuantizer(12, 2)
    latent = _latent(small, 4, 4)
    parts = [LookupFreeQuantizer(6)(part) for part in latent.chunk(2, dim=1)]
    output = small(latent)
    assert torch.equal(output.indices, torch.stack([part.indices for part in parts], dim=-1))
    for name, value in output.losses.items():
        assert_close(value, torch.stack([part.losses[name] for part in parts]).mean())


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (FiniteScalarQuantizer, {"levels": [8, 1]}, "levels"),
        (FiniteScalarQuantizer, {"levels": [2**20] * 4}, "2\\^62"),
        (BinarySphericalQuantizer, {"inverse_temperature": 0.0}, "inverse_temperature"),
        (VectorQuantizer, {"codebook_size": 0}, "codebook_size"),
        (VectorQuantizer, {"ema_decay": 1.0}, "ema_decay"),
        (VectorQuantizer, {"restart_below": 1.0}, "ema_decay"),
        (IndexBackpropagationQuantizer, {"temperature": -1.0}, "temperature"),
        (ResidualLookupFreeQuantizer, {"num_levels": 0}, "num_levels"),
        (GroupedLookupFreeQuantizer, {"num_bits": 19}, "num_groups"),
    ],
)
def test_arguments_out_of_range_are_named(kind, arguments, named):
    with pytest.raises(ValueError, match=named):
        kind(**arguments)

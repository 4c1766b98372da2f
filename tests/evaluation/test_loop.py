"""The evaluation loop: the same figures for any batch size and number of processes, and an honest results file."""

import json

import pytest
import torch
from processes import process_group, spawn
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, make_images, make_loader

from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.report.record import write_json
from open_magvit2.evaluation.sanity import SanityError

NUMBER = 13
NAMES = ["psnr", "ssim", "l1", "clamp_fraction", "bits_per_pixel", "codebook_usage"]


def run(batch_size=5, indices=None, tokenizer=None, number=NUMBER, check="stop"):
    metrics, _ = create(NAMES, MetricContext(CoarseTokenizer.codebook_size))
    loader = make_loader(make_images(number), batch_size, indices)
    return evaluate(tokenizer or CoarseTokenizer(), loader, metrics, progress=False, check=check)


def test_a_pass_gives_everything():
    result = run()
    assert result.num_images == NUMBER
    assert result.image_size == [32, 32]
    assert result.tokens_per_image == [8, 8]
    assert result.images_per_s == pytest.approx(NUMBER / result.seconds)
    assert 10 < result.metrics["psnr_image"] < 40
    assert 0 < result.metrics["codebook_utilization"] < 1
    assert result.metrics["bits_per_pixel"] == 9 / 16
    assert result.standard_errors.keys() >= {"psnr_image", "ssim_image", "l1"}
    assert all(len(column) == NUMBER for column in result.rows.values())
    assert result.details["codebook_usage"]["bit_means"].shape == (9,)


def test_any_batch_size_and_order():
    expected = run(batch_size=1).metrics
    for other in (run(batch_size=4), run(batch_size=NUMBER), run(indices=list(range(NUMBER))[::-1])):
        assert other.metrics == pytest.approx(expected, rel=1e-9)


def _evaluate_on_rank(rank, world, folder):
    """One process of two distributed evaluations; of one image the second process has none and still takes part."""
    with process_group(rank, world, folder):
        for number in (NUMBER, 1):
            result = run(batch_size=2, number=number, indices=list(range(rank, number, world)))
            written = [result.metrics, result.num_images, result.standard_errors]
            (folder / f"{number}_{rank}.json").write_text(json.dumps(written))


def test_two_processes_equal_one(tmp_path):
    spawn(_evaluate_on_rank, 2, tmp_path)
    for number in (NUMBER, 1):
        expected = run(number=number)
        for rank in range(2):
            metrics, counted, errors = json.loads((tmp_path / f"{number}_{rank}.json").read_text())
            assert counted == number
            assert metrics == pytest.approx(expected.metrics, rel=1e-9)
            assert errors == pytest.approx(expected.standard_errors, rel=1e-9)


def test_images_counted_twice_are_refused():
    with pytest.raises(ValueError, match="exactly once"):
        run(indices=[*range(NUMBER), 0])


def test_a_wrong_shape_is_refused():
    class Cropping(CoarseTokenizer):
        def reconstruct(self, image):
            reconstruction, indices = super().reconstruct(image)
            return reconstruction[..., :-4], indices

    with pytest.raises(SanityError, match="multiples of 4 x 4"):
        run(tokenizer=Cropping())


def test_results_are_written_whole_and_infinities_named(tmp_path):
    result = run(tokenizer=IdentityTokenizer(), check="record")
    path = tmp_path / "new" / "results.json"
    written = write_json(path, {"metrics": result.metrics, "checkpoint": path, "size": torch.tensor([1, 2])})
    assert json.loads(path.read_text()) == written
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert written["metrics"]["psnr_image"] is None
    assert "metrics.psnr_image is inf: written as null" in written["warnings"]
    with pytest.raises(TypeError, match="object"):
        write_json(path, {"metrics": object()})
    assert json.loads(path.read_text()) == written

"""The evaluation loop: the same figures for any batch size and number of processes, and an honest results file."""

import json
import resource

import pytest
import torch
from commands import FORKS
from processes import process_group, spawn
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, make_images, make_loader

from open_magvit2.common.errors import UserError
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.data.decoding import UnreadableImageError
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


def test_reconstructions_of_a_small_set_are_kept_for_the_page_and_the_check_takes_a_part_of_it():
    calls = []

    class Counting(CoarseTokenizer):
        def reconstruct(self, image):
            calls.append(len(image))
            return super().reconstruct(image)

    result = run(tokenizer=Counting(), number=40, batch_size=1)
    assert sorted(result.reconstructions) == list(range(40))
    assert sum(calls) == 40 + 5
    dataset = make_images(40)
    expected = to_uint8(CoarseTokenizer().reconstruct(to_float(dataset[7][None]))[0][0])
    assert torch.equal(result.reconstructions[7], expected)
    assert run(number=65).reconstructions == {}


def evaluate_with_few_files(folder):
    """A child process: 300 batches through a loading process, with room for 256 open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    torch.multiprocessing.set_sharing_strategy("file_descriptor")
    metrics, _ = create(NAMES, MetricContext(CoarseTokenizer.codebook_size))
    loader = torch.utils.data.DataLoader(Samples(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    result = evaluate(CoarseTokenizer(), loader, metrics, progress=False, check="off")
    (folder / "number").write_text(str(result.num_images))


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 300

    def __getitem__(self, index):
        return {"image": torch.full((3, 8, 8), index % 256, dtype=torch.uint8), "index": index, "path": str(index)}


def test_a_long_run_keeps_no_file_open_for_each_batch(tmp_path):
    child = FORKS.Process(target=evaluate_with_few_files, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (tmp_path / "number").read_text() == "300"


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


@pytest.mark.parametrize("check", ["stop", "off"])
def test_reconstructions_that_are_not_finite_are_counted_also_after_the_first_batch(check):
    class Overflowing(CoarseTokenizer):
        def reconstruct(self, image):
            reconstruction, indices = super().reconstruct(image)
            broken = [bool((to_uint8(one) == bad).all()) for one in image for bad in make_images(NUMBER)[-2:]]
            return reconstruction * (torch.nan if any(broken) else 1), indices

    result = run(tokenizer=Overflowing(), check=check)
    assert ["2 of 13 reconstructions are not finite" in error for error in result.sanity["errors"]] == [True]
    assert run(check=check).sanity.get("errors", []) == []


@pytest.mark.parametrize("check", ["stop", "off"])
def test_an_image_that_one_of_several_ranks_cannot_read_is_no_error_to_go_on_after(monkeypatch, check):
    """A table goes on with its next row after a ValueError: one rank would, while the others wait for it."""

    def loader():
        yield from make_loader(make_images(2), 2)
        raise UnreadableImageError("cannot read 'broken.png'")

    def pass_over():
        return evaluate(CoarseTokenizer(), loader(), {}, progress=False, check=check)

    with pytest.raises(UnreadableImageError):
        pass_over()
    monkeypatch.setattr("open_magvit2.evaluation.loop.world_size", lambda: 2)
    with pytest.raises(UserError, match=r"broken\.png.*on rank 0"):
        pass_over()


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

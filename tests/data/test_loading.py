"""The data module: batches, determinism over workers, ranks and trainers, and its checks."""

import multiprocessing
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.cli import LightningCLI

from open_magvit2.data.dataset import ImageDataset, RawImage, TransformedDataset
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.order import random_stream
from open_magvit2.data.sources.cache_building import build, make_plan
from open_magvit2.data.sources.cached import CachedImages
from open_magvit2.data.sources.concatenation import Concatenation
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.mixture import Mixture
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.transforms import ResizeRandomCrop
from open_magvit2.training.resume.state import ExactResumption

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_mini"


class WideNoise(ImageDataset):
    """Images wider than high, so that the place of the crop shows."""

    def __init__(self, num_images):
        self.num_images = num_images

    def __len__(self):
        return self.num_images

    def read(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 40, 3), dtype=np.uint8)
        return RawImage(Image.fromarray(pixels), index % 3, f"noise/{index}")


def module(num_train=20, num_validation=10, **options):
    options = {"image_size": 16, "global_batch_size": 8, "validation_batch_size": 4, "num_workers": 0, **options}
    return ImageDataModule(WideNoise(num_train), WideNoise(num_validation), **options)


def batches(loader, epoch=0):
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["index"], right["index"])
        assert torch.equal(left["label"], right["label"])
        assert left["path"] == right["path"]


def test_batches_are_collated_samples():
    train = batches(module().train_dataloader())
    assert len(train) == 2
    for batch in train:
        assert batch["image"].shape == (8, 3, 16, 16)
        assert batch["image"].dtype == torch.uint8
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
        assert batch["path"] == [f"noise/{index}" for index in batch["index"].tolist()]
        assert batch["label"].tolist() == [index % 3 for index in batch["index"].tolist()]
    validation = batches(module().val_dataloader())
    assert [len(batch["index"]) for batch in validation] == [4, 4, 2]
    assert torch.cat([batch["index"] for batch in validation]).tolist() == list(range(10))


def test_workers_do_not_change_the_batches_over_epochs():
    flipped = {"train_transform": ResizeRandomCrop(16, flip=True)}
    alone, helped = module(**flipped), module(**flipped, num_workers=2)
    loaders = alone.train_dataloader(), helped.train_dataloader()
    for epoch in (0, 1, 0):  # the workers live on from epoch to epoch
        first, second = (batches(loader, epoch) for loader in loaders)
        assert_equal_batches(first, second)
    assert_equal_batches(batches(alone.val_dataloader()), batches(helped.val_dataloader()))


def test_each_epoch_has_its_own_crops_and_flips():
    dataset = TransformedDataset(WideNoise(5), ResizeRandomCrop(16, flip=True), seed=1)
    assert torch.equal(dataset[3]["image"], dataset[3]["image"])
    seen = {dataset[epoch * 5 + 3]["image"].numpy().tobytes() for epoch in range(20)}
    assert len(seen) > 10
    assert {dataset[epoch * 5 + 3]["index"] for epoch in range(20)} == {3}
    other = TransformedDataset(WideNoise(5), ResizeRandomCrop(16, flip=True), seed=2)
    assert any(not torch.equal(other[key]["image"], dataset[key]["image"]) for key in range(5))


class Recorder(pl.LightningModule):
    """Learns nothing, remembers which images passed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []
        self.validated = []

    def training_step(self, batch, batch_index):
        self.seen.append((self.current_epoch, batch["index"].tolist(), batch["image"].clone()))
        return (self.weight * batch["image"].float().mean()).sum()

    def validation_step(self, batch, batch_index):
        self.validated.extend(batch["index"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **{**quiet, **options},
    )


def test_lightning_sets_the_epoch_and_resuming_at_an_epoch_gives_the_same_batches(tmp_path):
    whole = Recorder()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=module())
    epochs = [[indices for epoch, indices, _ in whole.seen if epoch == number] for number in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert whole.validated == list(range(10)) * 3

    first, rest = Recorder(), Recorder()
    interrupted = trainer(tmp_path, max_epochs=1)
    interrupted.fit(first, datamodule=module())
    interrupted.save_checkpoint(tmp_path / "one.ckpt")
    trainer(tmp_path, max_epochs=3).fit(rest, datamodule=module(), ckpt_path=tmp_path / "one.ckpt")
    resumed = first.seen + rest.seen
    assert [indices for _, indices, _ in resumed] == [indices for _, indices, _ in whole.seen]
    assert all(torch.equal(left[2], right[2]) for left, right in zip(resumed, whole.seen, strict=True))


@pytest.mark.parametrize("limit", [2, 0.5])
def test_a_run_with_short_epochs_resumes_at_the_right_image(tmp_path, limit):
    def shown(max_steps, **options):
        recorder = Recorder()
        saving = {"enable_checkpointing": True, "callbacks": [ExactResumption()]}
        run = trainer(tmp_path, max_steps=max_steps, limit_train_batches=limit, **saving)
        run.fit(recorder, datamodule=module(num_train=40), weights_only=False, **options)
        run.save_checkpoint(tmp_path / "newest.ckpt")
        return [(epoch, indices) for epoch, indices, _ in recorder.seen]

    whole = shown(7)
    assert [epoch for epoch, _ in whole] == [0, 0, 1, 1, 2, 2, 3]
    assert whole == shown(3) + shown(7, ckpt_path=tmp_path / "newest.ckpt")


@pytest.mark.parametrize("limit", [0, 0.1])
def test_epochs_without_a_step_are_refused(tmp_path, limit):
    with pytest.raises(ValueError, match=f"limit_train_batches {limit} of an epoch's 2 training steps leaves none"):
        trainer(tmp_path, limit_train_batches=limit, max_epochs=1).fit(Recorder(), datamodule=module())


def test_short_epochs_of_a_stream_are_refused_since_each_would_show_the_same_images(tmp_path):
    data = ImageDataModule(Mixture([WideNoise(20)], [1]), None, image_size=16, global_batch_size=5, num_workers=0)
    with pytest.raises(ValueError, match="limit_train_batches is 2, but Mixture is a stream"):
        trainer(tmp_path, limit_train_batches=2, max_epochs=3).fit(Recorder(), datamodule=data)
    trainer(tmp_path, limit_train_batches=2, max_epochs=1).fit(Recorder(), datamodule=data)


def rename(root):
    (root / "3.png").rename(root / "30.png")


def grow(root):
    with open(root / "3.png", "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(("change", "named"), [(rename, "names"), (grow, "sizes"), (None, "")])
def test_renamed_or_changed_files_are_other_data_of_which_a_continued_run_warns(tmp_path, caplog, change, named):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(8):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(root / f"{number}.png")

    def fit(max_steps, **options):
        recorder, images = Recorder(), ImageFolder(root)
        one = trainer(tmp_path, max_steps=max_steps, limit_val_batches=0)
        one.fit(recorder, datamodule=ImageDataModule(images, images, 16, 2, num_workers=0), **options)
        one.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
        return [indices for _, indices, _ in recorder.seen]

    fit(1)
    if change:
        change(root)
    caplog.clear()
    rest = fit(4, ckpt_path=tmp_path / "1.ckpt")
    order = [int(index) for epoch in (0, 1) for index in random_stream("shuffle", 0, epoch).permutation(8)]
    if change:  # the next epoch, in which the new order means something
        assert [index for indices in rest[:3] for index in indices] == order[8:14]
    assert ("made on other data" in caplog.text) == bool(change)
    assert f"'{named}'" in caplog.text or not change


@pytest.mark.parametrize("size", [(48, 32), (32, 48)])
def test_batches_that_are_not_square_come_from_files_and_from_a_cache_of_that_size(tmp_path, size):
    (tmp_path / "images").mkdir()
    for number, shape in enumerate([(90, 60), (60, 90), (40, 40)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    files = ImageFolder(tmp_path / "images")
    build(files, tmp_path / "cache", make_plan(files, size, 2, 0), 0)
    cache = CachedImages(tmp_path / "cache")
    first, second = (
        next(iter(ImageDataModule(images, None, size, 3, num_workers=0).train_dataloader()))["image"]
        for images in (files, Concatenation([cache]))
    )
    assert first.shape == (3, 3, *size)
    assert torch.equal(first, second)
    for images in (cache, Concatenation([files, cache]), Mixture([Concatenation([cache])], [1])):
        with pytest.raises(ValueError, match="the train images were resized to"):
            ImageDataModule(images, files, size[::-1], 3)


def test_a_batch_size_that_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"holds 20 image\(s\), fewer than one global batch of 21"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), datamodule=module(global_batch_size=21))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("validation_batch_size", 0),
        ("num_workers", -1),
        ("prefetch_factor", 0),
        ("prefetch_factor", None),
        ("seed", -1),
    ],
)
def test_wrong_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        module(**{name: value})


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"max_skipped_share must be in \[0, 1\), got {share}"):
        module(max_skipped_share=share)


def test_errors_of_workers_keep_their_message(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_text("broken")
    broken = ImageDataModule(ImageFolder(tmp_path), ImageFolder(tmp_path), 16, 4, num_workers=1)
    with pytest.raises(ValueError, match=r"cannot read image .*\.jpg.*Replace the file"):
        batches(broken.train_dataloader())


def test_builds_from_a_configuration():
    synthetic = "open_magvit2.data.sources.synthetic.SyntheticImages"
    config = {
        "train": {"class_path": synthetic, "init_args": {"num_images": 16, "size": 32}},
        "validation": {"class_path": synthetic, "init_args": {"num_images": 4, "size": 32, "split": "validation"}},
        "image_size": 32,
        "global_batch_size": 8,
        "num_workers": 0,
    }
    built = LightningCLI(Recorder, ImageDataModule, run=False, args={"data": config}).datamodule
    assert isinstance(built.validation, SyntheticImages)
    assert built.validation.split == "validation"
    assert next(iter(built.train_dataloader()))["image"].shape == (8, 3, 32, 32)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_mini")
def test_photos_to_batches():
    data = ImageDataModule(ImageFolder(PHOTOS / "train"), ImageFolder(PHOTOS / "val"), 64, 16, 25, num_workers=0)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (16, 3, 64, 64)
    assert 60 < batch["image"].float().mean() < 180
    assert sum(len(batch["index"]) for batch in data.val_dataloader()) == 100


_SIGNAL_AT_FORK: list[int] = []
_ORPHAN_AT_FORK: list[Path] = []  # where a worker that waits for its parent's death leaves its number


def _at_fork() -> None:
    for number in _SIGNAL_AT_FORK:
        os.kill(os.getpid(), number)
    for path in _ORPHAN_AT_FORK:
        parent = os.getppid()
        path.with_suffix(".new").write_text(str(os.getpid()))
        path.with_suffix(".new").rename(path)
        while os.getppid() == parent:
            time.sleep(0.01)


os.register_at_fork(after_in_child=_at_fork)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("moment", ["at the fork", "while it loads"])
def test_a_worker_survives_what_a_cluster_sends_and_obeys_its_parent(number, moment, monkeypatch):
    """A cluster signals every process of a job at any moment: here the first one of a worker's life, and later."""
    module = ImageDataModule(
        SyntheticImages(16, 32), SyntheticImages(4, 32, split="validation"), 32, global_batch_size=4, num_workers=1
    )
    if moment == "at the fork":
        monkeypatch.setattr(f"{__name__}._SIGNAL_AT_FORK", [number])
    batches = iter(module.train_dataloader())
    (worker,) = batches._workers
    monkeypatch.setattr(f"{__name__}._SIGNAL_AT_FORK", [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # this process hears them as before
    seen = next(batches)["index"].tolist()
    if moment == "while it loads":
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)  # a stranger
    for batch in batches:
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(16))
    assert worker.is_alive()
    deadline = time.monotonic() + 3000
    while _has_pending_signals(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.01)  # signals do not queue: a second SIGTERM beside one that is not yet taken would be lost
    worker.terminate()
    worker.join(timeout=300)
    assert worker.exitcode == 0


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_load_however_python_starts_processes(method):
    before = multiprocessing.get_start_method()
    module = ImageDataModule(
        SyntheticImages(16, 32), SyntheticImages(4, 32, split="validation"), 32, global_batch_size=4, num_workers=1
    )
    multiprocessing.set_start_method(method, force=True)  # forkserver is the default of Python 3.14
    try:
        batches = iter(module.train_dataloader())
    finally:
        multiprocessing.set_start_method(before, force=True)
    (worker,) = batches._workers
    assert sorted(index for batch in batches for index in batch["index"].tolist()) == list(range(16))
    worker.terminate()
    worker.join(timeout=300)
    assert worker.exitcode == 0


def _has_pending_signals(pid: int) -> bool:
    """Whether a signal to a process was sent and not yet taken."""
    (mask,) = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(mask, 16) != 0


def _load_until_killed(path: Path) -> None:
    module = ImageDataModule(
        SyntheticImages(16, 32), SyntheticImages(4, 32, split="validation"), 32, global_batch_size=4, num_workers=1
    )
    _ORPHAN_AT_FORK.append(path)
    next(iter(module.train_dataloader()))


def _is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_worker_whose_parent_was_killed_right_after_the_fork_ends(tmp_path):
    context = multiprocessing.get_context("fork")
    training = context.Process(target=_load_until_killed, args=(tmp_path / "pid",))
    training.start()
    deadline = time.monotonic() + 300
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    worker = int((tmp_path / "pid").read_text())
    training.kill()
    training.join()
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = _is_running(worker)
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive

"""What the scripts try before their work: the device, the output folder, the protocol; each refusal is one line."""

import pytest
import torch
from commands import ROOT

from open_magvit2.evaluation import command_line

PROTOCOLS = ROOT / "configs" / "evaluation"


def parse(tmp_path, *flags):
    given = ["--checkpoint", "none.ckpt", "--built-in", "5", "--output", str(tmp_path / "out"), *map(str, flags)]
    return command_line.parse_evaluate("", PROTOCOLS, given)


def parse_reconstruct(tmp_path, *flags):
    given = ["--checkpoint", "none.ckpt", "photo.png", "--output", str(tmp_path / "out"), *map(str, flags)]
    return command_line.parse_reconstruct("", given)


@pytest.mark.parametrize("parse", [parse, parse_reconstruct])
def test_an_output_that_cannot_be_written_is_refused_first(parse, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for output in (tmp_path / "file", tmp_path / "file/below/it", tmp_path / "dangling", "/proc/folder"):
        with pytest.raises(SystemExit) as end:
            parse(tmp_path, "--output", output)
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: cannot write to {output}: ")
        assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("parse", [parse, parse_reconstruct])
def test_trying_the_output_leaves_nothing_behind(parse, tmp_path):
    assert parse(tmp_path, "--output", tmp_path / "a/b/c", "--device", "cpu").device == torch.device("cpu")
    (tmp_path / "there").mkdir()
    parse(tmp_path, "--output", tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_reconstructions_and_one_picture_are_tried_too(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        parse_reconstruct(tmp_path, "--reconstructions", tmp_path / "file")
    with pytest.raises(SystemExit, match="2"):
        command_line.parse_reconstruct("", ["--checkpoint", "x", "--built-in", "3", "--output", str(tmp_path)])
    told = capsys.readouterr().err
    assert f"cannot write to {tmp_path / 'file'}: " in told
    assert "--output is a PNG file" in told


@pytest.mark.parametrize(
    ("what", "flags"),
    [
        (["--table", PROTOCOLS / "table.yaml"], ["--tokenizer", "vqgan"]),
        (["--table", PROTOCOLS / "table.yaml"], ["--method", "x", "--train-data", "y"]),
        (["--originals", "a", "--reconstructions", "b"], ["--tokenizer", "vqgan", "--image-size", "64"]),
        (["--originals", "a", "--reconstructions", "b"], ["--images", "c"]),
        (["--originals", "a", "--reconstructions", "b"], ["--precision", "bf16", "--check", "stop"]),
        (["--checkpoint", "a.ckpt", "--built-in", "2"], ["--checkpoints", "folder"]),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(tmp_path, capsys, what, flags):
    with pytest.raises(SystemExit, match="2"):
        command_line.parse_evaluate("", PROTOCOLS, [*map(str, what), "--output", str(tmp_path), *flags])
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"{', '.join(f for f in flags if f.startswith('--'))}: not with {what[0]}")


@pytest.mark.parametrize(
    "flag", [("--limit", 0), ("--batch-size", 0), ("--num-workers", -1), ("--max-pixels", 0)], ids=lambda flag: flag[0]
)
def test_a_number_out_of_its_range_is_refused_first(tmp_path, capsys, flag):
    with pytest.raises(SystemExit, match="2"):
        parse(tmp_path, *flag)
    assert f"{flag[0][2:].replace('-', '_')} must be at least {flag[1] + 1}, got {flag[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("parse", [parse, parse_reconstruct])
@pytest.mark.parametrize("device", ["cuda:97", "gpu"])
def test_a_device_that_is_not_there_is_refused_first(parse, device, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(tmp_path, "--device", device)
    told = capsys.readouterr().err
    assert told.startswith(f"error: cannot run on {device}: ")
    assert f"PyTorch sees {torch.cuda.device_count()} GPUs here: take cpu" in told
    assert told.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("parse", [parse, parse_reconstruct])
def test_cuda_without_a_gpu_is_refused_first(parse, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(tmp_path, "--device", "cuda")
    assert "error: cannot run on cuda: " in capsys.readouterr().err


def test_the_protocol_is_read_with_the_flags(tmp_path, capsys):
    assert parse(tmp_path, "--set", "tf32=true").chosen.name == "custom"
    assert parse(tmp_path, "--image-size", "32", "48").image_size == (32, 48)
    changes = parse(tmp_path, "--set", "tf32=true", "--precision", "bf16").chosen.changes
    assert changes == {"name": ["paper", "custom"], "tf32": [False, True], "precision": ["fp32", "bf16"]}
    for flags, words in (
        (["--precision", "fp16"], "precision: expected one of fp32, bf16, got 'fp16'"),
        (["--set", "num_images=abc"], "expected a whole number above 0, got 'abc'"),
        (["--metrics", "psnr,psnr"], "given more than once: psnr"),
        (
            ["--protocol", "papers"],
            "available: adm, ldm, llamagen, native, omnitokenizer, paper, seed_voken, taming, titok, vitvq",
        ),
        (["--tokenizer", "open_magvit3"], "available: "),
        (["--image-size", "32", "0"], "image_size must be at least 1, got [32, 0]"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parse(tmp_path, *flags)
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert words in told
        assert told.count("\n") == 1

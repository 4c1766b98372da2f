"""Names of classes, captioned pictures, inpainting and outpainting, and the command for them."""

import json

import numpy as np
import pytest
import torch
from commands import ROOT, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint
from test_autoregressive import small
from test_masked import small as small_masked

import open_magvit2
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_uint8
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.generators.class_names import class_names, find_class, imagenet_names
from open_magvit2.generators.command_line import parse, tokenizer_file
from open_magvit2.generators.editing import box_area, edit
from open_magvit2.generators.pictures import captioned_rows, class_rows, edited_rows, write_rows

SIZE = (8, 12)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """64 codes, 4 x 4 pixels a token."""
    return open_magvit2.load_tokenizer(save_small_checkpoint(tmp_path_factory.mktemp("tokenizer") / "small.ckpt"))


@pytest.fixture(scope="module")
def generator():
    return small_masked(bits=(3, 3), grid=(2, 3)).float()


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_imagenet_names():
    names = imagenet_names()
    assert len(set(names)) == 1000
    assert [names[number] for number in (0, 88, 207, 999)] == ["tench", "macaw", "golden retriever", "toilet tissue"]
    assert class_names(1000) == names
    assert class_names(3) == ["0", "1", "2"]


def test_names_of_folders_and_lists(tmp_path):
    for name in ("b two", "a", "c", ".hidden", "aa without images"):
        (tmp_path / name).mkdir()
        if "without" not in name:
            (tmp_path / name / "0.jpg").touch()  # its name is enough, nothing is decoded
    assert ImageFolder(tmp_path).classes == ["a", "b two", "c"]
    (tmp_path / "list.txt").write_text("red\ngreen\n\n")
    assert class_names(3, tmp_path) == ["a", "b two", "c"]
    assert class_names(2, tmp_path / "list.txt") == ["red", "green"]
    with pytest.raises(ValueError, match=r"names 3 classes, the generator has 4"):
        class_names(4, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        class_names(4, tmp_path / "nowhere")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"list\.txt: expected a text file in UTF-8"):
        class_names(4, tmp_path / "list.txt")


def test_a_class_is_found_by_number_name_or_part():
    names = imagenet_names()
    found = [find_class(text, names) for text in ("207", "Golden Retriever", "macaw", "tench", "crane", "crane bird")]
    assert found == [207, 207, 88, 0, names.index("crane"), names.index("crane bird")]
    synsets = ("tench, Tinca tinca", "great white shark, white shark, man-eater, Carcharodon carcharias")
    assert [find_class(text, names) for text in synsets] == [0, 2]
    assert find_class("tench, Tinca tinca", ["goldfish", "tench, Tinca tinca"]) == 1
    with pytest.raises(ValueError, match="several classes are called 'Crane': 0 crane, 2 crane; give the number"):
        find_class("Crane", ["crane", "cat", "crane"])
    with pytest.raises(ValueError, match="no class is called '0,1'"):
        find_class("0,1", ["0", "1"])
    for text, message in (
        ("tench, goldfish", "several classes are called 'tench, goldfish': 0 tench, 1 goldfish"),
        ("1000", "expected 0 to 999"),
        ("retriever", "several classes have 'retriever'; there are: .*golden retriever"),
        ("golden retreiver", "no class is called 'golden retreiver'; there are: golden retriever"),
        ("", "no class is called ''"),
    ):
        with pytest.raises(ValueError, match=message):
            find_class(text, names)


def test_an_area_of_nothing_gives_the_reconstruction_and_kept_tokens_stay(generator, tokenizer):
    image, labels = picture(), torch.tensor([0, 4, 4])
    nothing = torch.zeros(SIZE, dtype=torch.bool)
    expected = to_uint8(tokenizer.reconstruct(image[None])[0])[0]
    found = edit(generator, tokenizer, image, nothing, labels, [0, 1, 2])
    assert (found.int() - expected.int()).abs().max() <= 1
    assert torch.equal(edit(generator, tokenizer, image, nothing, labels, [0, 1, 2], keep_pixels=True)[1], image)
    corner = box_area(SIZE, (0, 0, 1, 1))  # touches one token
    edited = edit(generator, tokenizer, image, corner, labels, [0, 1, 2], keep_pixels=True)
    assert torch.equal(edited[:, :, 4:], image[None, :, 4:].expand(3, -1, -1, -1))
    assert torch.equal(edited[:, :, :, 4:], image[None, :, :, 4:].expand(3, -1, -1, -1))
    around = box_area(SIZE, (0, 0, 4, 4), outside=True)
    grown = edit(generator, tokenizer, image, around, labels, [0, 1, 2], keep_pixels=True)
    assert torch.equal(grown[:, :, :4, :4], image[None, :, :4, :4].expand(3, -1, -1, -1))
    assert not torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[1], grown[2])


def test_mistakes_in_edits_are_refused(generator, tokenizer):
    image, labels, area = picture(), torch.tensor([0]), torch.zeros(SIZE, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs a masked generator, got AutoregressiveGenerator"):
        edit(small(bits=(3, 3), grid=(2, 3)), tokenizer, image, area, labels, [0])
    with pytest.raises(ValueError, match=r"of \(8, 12\), got \(3, 8, 8\)"):
        edit(generator, tokenizer, image[:, :, :8], area, labels, [0])
    with pytest.raises(ValueError, match="inside 8 x 12 pixels, got 0 0 9 4"):
        box_area(SIZE, (0, 0, 9, 4))


def test_rows_are_drawn_below_their_captions(tmp_path):
    red = torch.zeros(2, 3, 8, 12, dtype=torch.uint8)
    red[:, 0] = 255
    grid = captioned_rows([("207 golden retriever", red), ("88 macaw", red[:1])])
    pixels = np.asarray(grid).reshape(-1, 3)
    assert grid.height > 2 * 96
    assert ((pixels == (255, 0, 0)).all(axis=1)).sum() == 3 * 96 * 144  # each 12 times as large
    dark = (np.asarray(grid).max(axis=2) < 60).any(axis=1)
    assert dark.any()  # there are letters
    write_rows(tmp_path, [("207 golden retriever", red)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "207_golden_retriever_0.png",
        "207_golden_retriever_1.png",
        "grid.png",
        "pictures.json",
    ]


def test_names_in_any_alphabet_are_kept_in_files_and_drawn(tmp_path):
    black = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
    names = {
        "4 über/Grün": "4_über_Grün_0.png",
        "5 кошка": "5_кошка_0.png",
        "6 हिन्दी 猫": "6_हिन्दी_猫_0.png",
        "7 u\u0308": "7_ü_0.png",
    }
    names["8 " + "я" * 200] = ""  # cut, since file systems take 255 bytes
    write_rows(tmp_path, [(caption, black) for caption in names])
    found = {path.name for path in tmp_path.glob("*_0.png")}
    assert found >= set(names.values()) - {""}
    assert len(found) == len(names)
    for first, second in ("üä", "жя", "δε"):  # letters that a font has not are all the same box
        pictures = [np.asarray(captioned_rows([(letter, black)])) for letter in (first, second)]
        assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


def test_a_class_has_the_same_images_whatever_the_others_are(tokenizer):
    model, device = small(bits=(3, 3), grid=(2, 3)), torch.device("cpu")
    both = class_rows(model, tokenizer, None, {1: "one", 3: "three"}, 2, 7, device, batch_size=3)
    alone = class_rows(model, tokenizer, None, {3: "three"}, 2, 7, device)
    assert [caption for caption, _ in both] == ["1 one", "3 three"]
    assert (both[1][1].int() - alone[0][1].int()).abs().max() <= 1
    assert not torch.equal(both[0][1], both[1][1])


def test_edits_of_a_photo_by_box_and_by_mask(generator, tokenizer, tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(picture().permute(1, 2, 0).numpy()).resize((24, 16)).save(photo)
    white = np.zeros((16, 24), dtype=np.uint8)
    white[:8, :8] = 255
    Image.fromarray(white).save(mask)
    rest = (generator, tokenizer, None, {4: "four"}, 3, 0, photo)
    by_box, by_mask = edited_rows(*rest, (0, 0, 4, 4)), edited_rows(*rest, mask)
    assert [caption for caption, _ in by_box] == ["photo.png; grey is made anew", "4 four"]
    assert torch.equal(by_box[1][1], by_mask[1][1])
    shown = by_box[0][1]
    assert (shown[1, :, :4, :4] == 128).all()
    assert torch.equal(shown[1, :, 4:], shown[0, :, 4:])


def test_a_mask_or_box_that_makes_an_edit_meaningless_is_refused(generator, tokenizer, tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.new("RGB", (24, 16)).save(photo)
    part = np.zeros((16, 24), dtype=np.uint8)
    part[:8, :8] = 255
    rest = (generator, tokenizer, None, {4: "four"}, 1, 0, photo)
    white = np.full((16, 24), 255, dtype=np.uint8)
    for values, message in (
        (part[:, :20], r"mask\.png has width x height 20 x 16, the photo .*photo\.png 24 x 16"),
        (part // 255, r"got 0 of 6 to make, of 0 of the 8 x 12 pixels"),
        (white, "got 6 of 6 to make"),
        (np.stack([white, part], axis=-1), r"mask\.png is transparent in parts"),
        (np.stack([white, white, white, part], axis=-1), r"mask\.png is transparent in parts"),
    ):
        Image.fromarray(values).save(mask)
        with pytest.raises(ValueError, match=message):
            edited_rows(*rest, mask)
    for box, outside in (((0, 0, 8, 12), True), ((0, 0, 8, 12), False), ((3, 3, 5, 9), False)):
        with pytest.raises(ValueError, match=f"got {0 if outside else 6} of 6 to make"):
            edited_rows(*rest, box, outside)
    Image.fromarray(np.stack([part, white], axis=-1)).save(mask)
    assert len(edited_rows(*rest, mask)) == 2


def test_edits_are_made_in_batches(generator, tokenizer, tmp_path, monkeypatch):
    photo, sizes = tmp_path / "photo.png", []
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save(photo)
    rest = (generator, tokenizer, None, {4: "four", 1: "one"}, 3, 0, photo, (0, 0, 4, 4))
    together = edited_rows(*rest)

    def counted(*arguments):
        sizes.append(len(arguments[4]))
        return edit(*arguments)

    monkeypatch.setattr("open_magvit2.generators.pictures.edit", counted)
    apart = edited_rows(*rest, batch_size=4)
    assert sizes == [4, 2]
    assert [caption for caption, _ in apart] == [caption for caption, _ in together]
    assert all((a.int() - b.int()).abs().max() <= 1 for (_, a), (_, b) in zip(apart, together, strict=True))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        edited_rows(*rest, batch_size=0)


def sample(shared, *flags):
    options = ["--generator", shared / "fixtures/published_ar_tiny.ckpt", "--grid", "4", "4", "--head-width", "32"]
    return run_here(ROOT / "scripts/sample.py", *options, "--device", "cpu", *flags)


def test_the_command_draws_named_classes(shared, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"animal {letter}" for letter in "abcdefghij"))
    flags = ("--class-names", names, "--classes", "3", "Animal H", "--per-class", "2", "--guidance", "4")
    result = sample(shared, *flags, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    listed = ["3_animal_d_0.png", "3_animal_d_1.png", "7_animal_h_0.png", "7_animal_h_1.png", "grid.png"]
    assert found == [*listed, "pictures.json"]
    record = json.loads((tmp_path / "out" / "pictures.json").read_text())
    assert (sorted(record["files"]), record["seed"], record["image_seeds"]) == (listed, 0, [0, 1])
    assert record["classes"] == {"3": "animal d", "7": "animal h"}
    assert [group["guidance"] for group in record["sampling"]["groups"]] == [4.0, 4.0]
    assert record["generator_sha256"] == sha256_of(shared / "fixtures/published_ar_tiny.ckpt")
    (tmp_path / "out" / "7_mine.png").write_bytes(b"of the user")
    assert (
        sample(shared, *flags[:3], "3", "--seed", "5", "--per-class", "1", "--output", tmp_path / "out").returncode == 0
    )
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["3_animal_d_0.png", "7_mine.png", "grid.png", "pictures.json"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": ["../photo.png"]}', '{"files": ["notes.txt"]}', '{"files": 3}']
)
def test_a_damaged_record_deletes_nothing(tmp_path, content):
    for name in ("photo.png", "out/notes.txt", "out/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out" / "pictures.json").write_text(content)
    with pytest.raises(ValueError, match=r"pictures\.json is damaged .*: delete it"):
        write_rows(tmp_path / "out", [("1", torch.zeros(1, 3, 8, 12, dtype=torch.uint8))])
    assert {path.name for path in tmp_path.rglob("*.*")} == {"photo.png", "notes.txt", "other.png", "pictures.json"}


def test_a_generator_that_was_trained_on_tokens_asks_for_the_file_of_their_tokenizer(tmp_path):
    """Token shards know their tokenizer by its SHA-256 alone."""
    args = parse(None, ["--generator", "last.ckpt", "--classes", "1", "--output", str(tmp_path)])
    model = small()
    model.made_by = {"path": None, "sha256": "a" * 64, "weights": "ema", "precision": "fp32"}
    with pytest.raises(ValueError, match=f"trained on tokens.* ema weights .* SHA-256 {'a' * 64}: .*--tokenizer"):
        tokenizer_file(args, model)
    args.tokenizer = tmp_path / "tokenizer.ckpt"
    args.tokenizer.write_bytes(b"of another content: a warning")
    assert tokenizer_file(args, model) == (args.tokenizer, "ema")
    args.tokenizer, model.made_by = None, {}  # published: inside the same file
    assert tokenizer_file(args, model) == (args.generator, "raw")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--classes", "10"], 1, "class 10 is outside the table: expected 0 to 9"),
        (["--classes", "1", "--num-steps", "8"], 1, "has no num_steps; it has guidance"),
        (["--classes", "1", "--edit", "PHOTO", "--box", "0", "0", "4", "4"], 1, "needs a masked generator"),
        (["--num-images", "7"], 1, "7 images cannot hold 10 classes equally often"),
        (
            ["--edit", "PHOTO", "--box", "0", "0", "4", "4", "--num-images", "20"],
            2,
            "--edit makes pictures of --classes: not with --num-images",
        ),
        (["--edit", "PHOTO", "--classes", "1"], 2, "--edit needs either --mask or --box"),
        (["--classes", "1", "--outside"], 2, "are for --edit"),
        (["--per-class", "1"], 2, "give --classes"),
        (["--num-images", "10", "--per-class", "1"], 2, "--per-class is for pictures"),
        (["--num-images", "10", "--per-class", "0"], 2, "--per-class is for pictures"),
        (["--classes", "1", "--num-workers", "0"], 2, "--num-workers is for --num-images"),
        (["--classes", "1", "2", "01"], 1, "--classes 1 2 01 are the classes 1 2 1: give every class once"),
        (["--classes", "1", "--power", "2"], 1, "power is of the schedule power_cosine, got schedule constant"),
        (["--classes", "1", "--seed", "-1"], 1, "seed must be at least 0, got -1"),
        (["--classes", "1", "--head-width", "0"], 1, "head_width must be at least 1, got 0"),
        (["--classes", "1", "--output", "PHOTO"], 2, "cannot write to"),
    ],
)
def test_mistakes_are_told_in_one_line(shared, tmp_path, flags, code, words):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (20, 20)).save(photo)
    flags = [photo if flag == "PHOTO" else flag for flag in flags]
    result = sample(shared, "--output", tmp_path / "out", *flags)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_photo_of_the_user_is_not_deleted_or_written_over(tmp_path):
    row = ("3", torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    write_rows(tmp_path, [row])
    photo = tmp_path / "3_0.png"
    for rows in ([row], [("4", row[1])]):
        with pytest.raises(ValueError, match="3_0.png is one of the pictures that are written anew there: choose"):
            write_rows(tmp_path, rows, inputs=[photo])
    assert photo.is_file()

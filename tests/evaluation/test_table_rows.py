"""The YAML file of a comparison: what would fail once everything is measured is refused before, by row and field."""

import math

import pytest
import yaml
from commands import ROOT
from test_table import ROWS

from open_magvit2.evaluation import table_rows

CONFIGS = ROOT / "configs" / "evaluation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metod": "x"}, "unknown \\['metod'\\]"),
        ({"tokens": None}, "missing \\['tokens'\\]"),
        ({"published": {"fid": 1.0}}, "row 2: no published figure is called \\['fid'\\]"),
        ({"file": "nowhere"}, "row 2: no published file is called 'nowhere'"),
        ({"image_size": "big"}, "row 2: image_size must be"),
        ({"method": 5}, "row 2: method must be a text, got 5"),
        ({"protocol": ["paper"]}, "row 2: protocol must be a text"),
        ({"checkpoint": True}, "row 2: checkpoint must be a text"),
        ({"never_released": "no"}, "row 2: never_released must be true or false, got 'no'"),
        ({"codebook_size": "many"}, "row 2: codebook_size must be a number, got 'many'"),
        ({"tokens": [8, 8]}, "row 2: tokens must be a text or a number"),
        ({"published": [1.0]}, "row 2: published must be figures by name"),
        ({"published": {"rfid": "1,53"}}, "row 2: the published rfid must be a number or null, got '1,53'"),
        ({"published": {"rfid": math.nan}}, "row 2: the published rfid must be a number"),
        ({**ROWS[0]}, "row 2: every field is that of row 1"),
    ],
)
def test_a_wrong_row_is_refused_by_name(tmp_path, change, message):
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": [ROWS[0], {**ROWS[2], **change}]}))
    with pytest.raises(ValueError, match=message):
        table_rows.load(tmp_path / "table.yaml", CONFIGS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: [a: : {", "not YAML"),
        ('!!python/object/apply:os.system ["true"]', "not YAML"),
        ("rows: []", "no list `rows`"),
        ("kind: [reconstruction]\nrows: [1]", "no kind is called"),
        ("rows: [1]\nmetrics: psnr", r"unknown \['metrics'\]"),
    ],
)
def test_a_file_that_is_no_table_is_one_error(tmp_path, text, message):
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        table_rows.load(tmp_path / "table.yaml", CONFIGS)
    assert str(tmp_path / "table.yaml") in str(refused.value)


def test_a_size_without_rows_and_a_missing_protocol_are_named(tmp_path):
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": ROWS}))
    with pytest.raises(ValueError, match="no row of images of 48 x 48; its sizes: 32 x 32, 64 x 64"):
        table_rows.load(tmp_path / "table.yaml", CONFIGS, image_size=(48, 48))
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": [{**ROWS[0], "protocol": "papers"}]}))
    with pytest.raises(
        FileNotFoundError, match="row 1: no protocol .*papers.* paper, seed_voken, taming, titok, vitvq$"
    ):
        table_rows.load(tmp_path / "table.yaml", CONFIGS)

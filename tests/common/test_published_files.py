"""The list of published files: its rows are whole, and the table of the evaluation agrees with them."""

import pytest
import yaml

import open_magvit2
from open_magvit2.common.published_files import find_published
from open_magvit2.evaluation import tokenizers


def test_names_are_unique_and_no_name_looks_like_a_path():
    names = [row.name for row in open_magvit2.published()]
    assert len(set(names)) == len(names) >= 18
    assert not [name for name in names if "/" in name or "@" in name]


@pytest.mark.parametrize("row", open_magvit2.published(), ids=lambda row: row.name)
def test_a_row_can_be_found_and_loaded(row):
    assert find_published(row.name) == row
    assert row.repository or (row.file and row.remark)
    assert row.repository is None or len(row.repository.split("/")) == 2
    assert row.kind in ("image_tokenizer", "video_tokenizer", "generator")
    assert row.kind != "image_tokenizer" or row.family in (None, *tokenizers.available())
    assert all(figures["image_size"] in (128, 256) for figures in row.figures)
    assert row.sha256 is None or len(row.sha256) == 64
    assert row.md5 is None or len(row.md5) == 32


def test_published_figures_of_the_comparison_are_those_of_the_list(repository):
    table = yaml.safe_load((repository / "configs" / "evaluation" / "table.yaml").read_text())["rows"]
    listed = {row.file or row.name: row for row in open_magvit2.published()}
    compared = [row for row in table if row["checkpoint"]]
    assert {row["checkpoint"] for row in compared} <= set(listed)
    for row in compared:
        published = listed[row["checkpoint"]]
        of_file = [other for other in compared if other["checkpoint"] == row["checkpoint"]]
        given = [  # a file that others measured as well has two rows
            {name: value for name, value in other["published"].items() if value is not None}
            for other in of_file
            if other["image_size"] == row["image_size"]
        ]
        figures = [figures for figures in published.figures if figures["image_size"] == row["image_size"]]
        told = [{name: value for name, value in one.items() if name != "image_size"} for one in figures] or [{}]
        assert told[0] in given, row["checkpoint"]
        assert published.family == row["family"], row["checkpoint"]

"""Warnings of several processes are shown once."""

import logging

import pytest

from open_magvit2.common.distributed import warn_on_first_process


@pytest.mark.parametrize(
    ("variables", "is_shown"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_warnings_are_shown_by_the_first_process_alone(monkeypatch, caplog, variables, is_shown):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    package = logging.getLogger("open_magvit2")
    monkeypatch.setattr(package, "level", package.level)  # as it was, after the test
    warn_on_first_process()
    logger = logging.getLogger("open_magvit2.data.sources.image_folder")
    monkeypatch.setattr(logger, "_cache", {})
    logger.warning("left out")
    logger.error("failed")
    assert [record.message for record in caplog.records] == (["left out"] if is_shown else []) + ["failed"]

"""Memory of loading a file: of its weights, hardly more."""

import pytest

from benchmarks.loading import load_in_a_process, random_file


@pytest.mark.slow
@pytest.mark.parametrize("container", ["titok", "titok.bin"])
def test_loading_641_million_parameters_takes_little_more_memory_than_they_do(tmp_path, container):
    loading = load_in_a_process(random_file("L-32", tmp_path / container))
    assert loading.num_bytes == 4 * 641_054_735
    assert loading.peak_per_weights < 1.2

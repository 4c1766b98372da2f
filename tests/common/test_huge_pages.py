"""Tensors in huge pages are tensors like others."""

import pytest
import torch

from open_magvit2.common import huge_pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3 * 2**20 + 7), ()])
def test_shape_dtype_and_memory_are_those_asked_for(dtype, shape):
    values = huge_pages.empty(shape, dtype, torch.device("cpu"))
    assert (values.shape, values.dtype, values.is_contiguous()) == (shape, dtype, True)
    assert values.fill_(2.0).double().mean() == 2.0  # all of it may be written
    assert values.untyped_storage().nbytes() <= values.nbytes + 2**21


def test_other_devices_are_served_as_usual():
    assert huge_pages.empty((2**22,), torch.float32, torch.device("meta")).is_meta
    with torch.device("meta"):
        assert huge_pages.empty((2**22,), torch.float32, torch.device("cpu")).device.type == "cpu"


def test_what_is_collapsed_keeps_its_values():
    values = [torch.full((2**20,), float(number)) for number in range(3)]
    pieces = [(value.data_ptr(), value.nbytes) for value in values]
    huge_pages.collapse([*pieces, (pieces[0][0], 0)])
    assert [value.unique().tolist() for value in values] == [[0.0], [1.0], [2.0]]

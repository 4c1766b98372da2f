"""Every notebook runs from top to bottom without an error, and is kept without outputs."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient
from small_checkpoint import save_small_checkpoint, save_small_generator

from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.residual import ResidualLookupFreeQuantizer

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "kind"),
    [(path, kind) for path in NOTEBOOKS for kind in (("masked", "autoregressive") if "gen" in path.name else ("",))],
    ids=lambda value: getattr(value, "name", value),
)
def test_notebook_runs(path, kind, tmp_path, monkeypatch):
    if kind:
        monkeypatch.setenv("OPEN_MAGVIT2_GENERATOR", str(save_small_generator(tmp_path / "generator.ckpt", kind)))
    monkeypatch.setenv("OPEN_MAGVIT2_CHECKPOINT", str(save_small_checkpoint(tmp_path / "small.ckpt")))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises CellExecutionError with the cell and its traceback
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= (4 if kind else 5)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_there_is_a_notebook():
    assert {"checkpoint.ipynb", "generation.ipynb"} <= {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize(
    "quantizer", [FiniteScalarQuantizer((5, 5)), ResidualLookupFreeQuantizer(3, 2)], ids=["FSQ", "residual"]
)
def test_the_notebook_of_checkpoints_takes_other_quantizers(quantizer, tmp_path, monkeypatch):
    (path,) = (path for path in NOTEBOOKS if path.name == "checkpoint.ipynb")
    monkeypatch.setenv("OPEN_MAGVIT2_CHECKPOINT", str(save_small_checkpoint(tmp_path / "small.ckpt", None, quantizer)))
    matplotlib.use("agg")
    monkeypatch.setattr(plt, "show", plt.close)
    cells = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    exec("\n".join(cells), {})  # without a kernel and without drawing

"""The notebooks run from top to bottom, show pictures, and are in the repository with their outputs."""

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from prd_lightning.errors import MissingWeightsError
from prd_lightning.pipeline import find_generator

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = {"first_mesh": 2, "train_your_own": 4}
"""Notebooks by name, and how many pictures each shows."""
USES_SHIPPED_GENERATOR = {"first_mesh"}


@pytest.fixture(params=list(PICTURES))
def name(request: pytest.FixtureRequest) -> str:
    """The name of each notebook; one that needs the shipped generator is skipped while the package has none."""
    if request.param in USES_SHIPPED_GENERATOR:
        try:
            find_generator("tiny")
        except MissingWeightsError as error:
            pytest.skip(str(error))
    return request.param


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def check_outputs(name: str, notebook: nbformat.NotebookNode) -> None:
    """Every cell ran in order, nothing was written to the error stream, and the pictures are pictures of something."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PICTURES[name]
    for picture in pictures:
        colors = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").getcolors(1_000_000)
        assert len(colors) > 50


def test_all_notebooks_are_listed_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.slow
def test_a_notebook_runs(name, tmp_path):
    notebook = read(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    check_outputs(name, notebook)
    assert not list(tmp_path.iterdir()), "a notebook must not leave files in its folder"


def test_outputs_are_shown_in_the_repository(name):
    check_outputs(name, read(name))

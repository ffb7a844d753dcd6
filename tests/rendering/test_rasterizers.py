"""The choice of a rasterizer."""

import importlib.util
import logging

import pytest
import torch

from prd_lightning.errors import BackendUnavailableError, ConfigurationError
from prd_lightning.rendering.rasterizer_torch import TorchRasterizer
from prd_lightning.rendering.rasterizers import Rasterizer, make_rasterizer

INSTALLED = importlib.util.find_spec("nvdiffrast") is not None


@pytest.mark.parametrize(("name", "reason"), [("torch", "asked for"), ("auto", "not CUDA")])
def test_choice_on_the_cpu_is_logged_with_its_reason(caplog, name, reason):
    with caplog.at_level(logging.INFO):
        rasterizer = make_rasterizer(name, "cpu")
    assert isinstance(rasterizer, TorchRasterizer) and isinstance(rasterizer, Rasterizer)
    assert "rasterizer: torch" in caplog.text and reason in caplog.text


def test_unknown_names_list_what_exists():
    with pytest.raises(ConfigurationError, match="'opengl'; known: auto, torch, nvdiffrast"):
        make_rasterizer("opengl")


def test_backend_that_cannot_run_names_the_remedy():
    with pytest.raises(BackendUnavailableError, match="rasterizer=torch"):
        make_rasterizer("nvdiffrast", "cpu")


@pytest.mark.skipif(INSTALLED, reason="nvdiffrast is installed")
def test_gpu_without_nvdiffrast_falls_back(caplog):
    with caplog.at_level(logging.INFO):
        assert isinstance(make_rasterizer("auto", torch.device("cuda")), TorchRasterizer)
    assert "not installed" in caplog.text

"""What all tests share: run-time shape checks, one thread, seeds, the ``gpu`` mark and the golden numbers."""

import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook
from safetensors.torch import load_file
from torch import Tensor


def mentions_shape(annotation: Any) -> bool:
    """Whether a jaxtyping shape stands anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(mentions_shape(part) for part in typing.get_args(annotation))


def check_shapes(function: Callable) -> Callable:
    """Checks the arguments with a shape at every call, and leaves the others to the package's own errors."""
    annotations = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: value for name, value in annotations.items() if mentions_shape(value)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


# Every annotated shape in the package is checked while the tests run. This must come before the package is imported.
# The hook names its checker by module, and a conftest file cannot be imported by name everywhere.
CHECKER = types.ModuleType("prd_shape_checks")
CHECKER.check_shapes = check_shapes
sys.modules[CHECKER.__name__] = CHECKER
install_import_hook("prd_lightning", f"{CHECKER.__name__}.check_shapes")

GOLDEN_VARIABLE = "PRD_GOLDEN_DIR"
GOLDEN_GROUPS = ("weights", "inputs", "outputs", "outputs64", "grads")


def golden_folder() -> Path:
    """Where the golden numbers are: the folder that the variable names, else ``shared/golden`` beside the checkout."""
    named = os.environ.get(GOLDEN_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """One thread for each worker: two threads under contention are far slower than one."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked ``gpu`` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of prompt files go into a folder of the tests, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    torch.manual_seed(20240)


@dataclass(frozen=True)
class GoldenFile:
    """Recorded numbers of one part: settings from the json file, tensors by group and name."""

    settings: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    outputs64: dict[str, Tensor] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)


class GoldenNumbers:
    """Reads the files of a folder of golden numbers; skips the test where a file is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, GoldenFile] = {}

    def settings(self, name: str) -> dict[str, Any]:
        """The json file alone, for layouts."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"no golden numbers {path}; set {GOLDEN_VARIABLE} to the folder that holds them")
        return json.loads(path.read_text())

    def __call__(self, name: str) -> GoldenFile:
        """Settings and tensors."""
        if name not in self._loaded:
            groups: dict[str, dict[str, Tensor]] = {group: {} for group in GOLDEN_GROUPS}
            settings = self.settings(name)
            for key, value in load_file(self.folder / f"{name}.safetensors").items():
                group, _, rest = key.partition("/")
                groups[group][rest] = value
            self._loaded[name] = GoldenFile(settings, **groups)
        return self._loaded[name]


@pytest.fixture(scope="session")
def golden() -> GoldenNumbers:
    """``golden("cameras")`` reads ``cameras.json`` and ``cameras.safetensors``."""
    return GoldenNumbers(golden_folder())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    actual, expected = actual.detach().double(), expected.detach().double()
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    scale = expected.abs().max().clamp_min(1e-30) if expected.numel() else torch.ones(())
    return float((actual - expected).abs().max() / scale) if expected.numel() else 0.0


@pytest.fixture(scope="session")
def close():  # noqa: ANN201
    """``close(actual, expected, 1e-5)`` fails unless the largest difference is within that share of the largest value."""

    def check(actual: Tensor, expected: Tensor, tolerance: float, name: str = "value") -> None:
        error = relative_error(actual, expected)
        assert error <= tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"

    return check

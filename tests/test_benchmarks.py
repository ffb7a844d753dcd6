"""The benchmarks run, compare what they say they compare, and write results that follow their schema."""

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from prd_lightning.field import TriplaneField
from prd_lightning.rendering import make_rasterizer

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are no part of the package

from benchmarks import REGISTRY, grid_distances, measuring, normals, rasterizer, surface  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402

SETTINGS = measuring.Settings(torch.device("cpu"), repeats=1, smallest=True)


@pytest.mark.slow
def test_all_benchmarks_write_results_that_follow_the_schema(tmp_path, capsys):
    assert main(["--smallest", "--repeats", "1", "--device", "cpu", "--output", str(tmp_path / "results.json")]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    jsonschema.validate(found, json.loads((REPOSITORY / "benchmarks" / "schema.json").read_text()))
    assert list(found["benchmarks"]) == list(REGISTRY)
    assert found["environment"]["threads"] == torch.get_num_threads()
    assert found["environment"]["torch"] == torch.__version__
    for result in found["benchmarks"].values():
        seconds = {case["name"]: case["seconds"] for case in result["cases"]}
        for case in result["cases"]:
            assert case["ratio"] == pytest.approx(case["seconds"] / seconds[case["baseline"]])
            assert case["fastest"] <= case["seconds"]
    parts = {case["name"]: case["seconds"] for case in found["benchmarks"]["training_step"]["cases"]}
    whole = parts.pop("whole step")
    assert set(parts) == {"generator", "volume", "mesh", "teachers", "backward"}
    assert 0.5 * whole < sum(parts.values()) <= whole
    printed = capsys.readouterr().out
    assert all(name in printed for name in REGISTRY)


def test_the_schema_refuses_a_case_without_a_ratio():
    schema = json.loads((REPOSITORY / "benchmarks" / "schema.json").read_text())
    case = {"name": "a", "seconds": 1.0, "fastest": 1.0, "baseline": "a", "per_second": None, "graph_megabytes": None}
    found = {
        "schema": measuring.SCHEMA,
        "environment": measuring.environment(SETTINGS),
        "benchmarks": {"one": {"title": "one", "sizes": {}, "cases": [case]}},
    }
    with pytest.raises(jsonschema.ValidationError, match="ratio"):
        jsonschema.validate(found, schema)
    case["ratio"] = 1.0
    jsonschema.validate(found, schema)


def test_both_ways_to_the_distances_of_a_grid_agree(close):
    field = TriplaneField(channels=4, hidden=8)
    planes = torch.randn(1, 6, 4, 6, 6)
    dense = grid_distances.dense_distances(field, planes, 5)
    close(field.grid_sdf(field.prepare(planes), 5), dense, 1e-5)


def test_both_ways_to_a_coloured_surface_agree(close):
    field = TriplaneField(channels=4, hidden=8).requires_grad_(False)
    planes = torch.randn(1, 6, 4, 6, 6)
    vertices, faces, colors = surface.dense_mesh(field, planes, 12)
    own_vertices, own_faces, own_colors = surface.sparse_mesh(field, field.prepare(planes), 12)
    assert torch.equal(faces, own_faces)
    close(own_vertices, vertices, 1e-5)
    close(own_colors, 1.002 * colors - 0.001, 1e-4)


def test_a_widened_field_is_the_same_field(close):
    field, planes = TriplaneField(channels=4, hidden=8).requires_grad_(False), torch.randn(1, 6, 4, 6, 6)
    wide, large = surface.widened(field, planes, 8, 16, 6)
    points = 2 * torch.rand(1, 50, 3) - 1
    prepared, wide_prepared = field.prepare(planes), wide.prepare(large)
    close(wide.color(wide_prepared, points), field.color(prepared, points), 1e-5)
    for actual, expected in zip(wide.sdf_and_deformation(wide_prepared, points), field.sdf_and_deformation(prepared, points)):
        close(actual, expected, 1e-5)


def test_both_ways_to_the_gradient_agree(close):
    field = TriplaneField(channels=4, hidden=8).double()
    prepared = field.prepare(torch.randn(1, 6, 4, 6, 6, dtype=torch.float64))
    points = torch.rand(1, 50, 3, dtype=torch.float64) - 0.5
    value, gradient = normals.difference_gradient(field, prepared, points)
    expected_value, expected = field.sdf_and_gradient(prepared, points)
    close(value, expected_value, 1e-12)
    # A point within a step of a texel's border or a kink of the network has two slopes; most have one.
    error = (gradient - expected).abs().amax(dim=-1).flatten()
    assert error.median() < 1e-4 * expected.abs().max()


def test_the_mesh_has_the_triangles_that_the_benchmark_names_and_faces_outwards():
    vertices, faces = rasterizer.round_mesh(150, 200)
    assert len(faces) == 60_000
    a, b, c = vertices[faces].unbind(dim=1)
    facing = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(dim=-1)
    assert (facing >= -1e-9).all()
    assert (facing > 0).sum() >= 2 * 149 * 200
    picture = rasterizer.draw(make_rasterizer("torch"), vertices, faces, torch.eye(4)[None], 16)
    assert picture[0, 8, 8].abs().max() > 0


def test_the_bytes_of_a_graph_are_counted_once():
    value = torch.ones(1000, requires_grad=True)
    squares = measuring.graph_bytes(lambda: (value * value).sum())
    assert squares == 4000  # both factors are the same tensor
    assert measuring.graph_bytes(lambda: (value.exp() * 2.0).sum()) == 4000  # exp keeps its result


def test_sections_of_a_round_add_up_and_start_again():
    watch = measuring.Stopwatch(torch.device("cpu"))
    for _ in range(2):
        watch.start("outer")
        watch.start("inner")
        watch.stop("inner")
        watch.stop("outer")
    seconds = watch.round()
    assert 0 < seconds["inner"] < seconds["outer"]
    assert watch.round() == {}


def test_cases_take_turns_and_the_first_round_does_not_count():
    calls = []
    rounds = measuring.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, SETTINGS)
    assert calls == ["a", "b", "a", "b"]
    assert {name: len(seconds) for name, seconds in rounds.items()} == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["--only", "normals", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_results_file_is_not_replaced_unasked(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text("mine")
    assert main(["--only", "normals", "--output", str(path)]) == 2
    assert path.read_text() == "mine"

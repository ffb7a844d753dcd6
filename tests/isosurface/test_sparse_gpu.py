"""The search for surfaces on a GPU: the same signs as the dense evaluation there, and as the CPU but for rounding."""

import dataclasses

import pytest
import torch

from benchmarks.surface_fields import random_field
from prd_lightning.isosurface import FieldGrid, extract_isosurface, grid_points
from prd_lightning.mesh.extraction import extract_surface

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 14])  # both searches, and a field that is evaluated everywhere
def test_sparse_dense_and_cpu_agree(seed):
    field, planes = random_field(seed)
    on_cpu = FieldGrid(field, planes, 40).dense_signs().inside
    moved = dataclasses.replace(planes, geometry=planes.geometry.cuda(), texture=planes.texture.cuda())
    grid = FieldGrid(field.cuda(), moved, 40)
    sparse, dense = grid.sparse_signs().inside, grid.dense_signs().inside
    assert sparse.is_cuda and torch.equal(sparse, dense)
    assert (sparse.cpu() != on_cpu).float().mean() < 1e-4
    (vertices, faces), (expected, expected_faces) = (extract_surface(field, moved, 40, dense) for dense in (False, True))
    assert torch.equal(faces, expected_faces) and torch.equal(vertices, expected)


def test_the_differentiable_extractor_agrees_with_the_cpu():
    points = grid_points(24)
    values, offsets = (points.norm(dim=-1) - 0.6).requires_grad_(), torch.randn(len(points), 3)
    vertices, faces = extract_isosurface(values, 24, offsets)
    (gradient,) = torch.autograd.grad(vertices.square().sum(), values)
    leaf = values.detach().cuda().requires_grad_()
    on_gpu, faces_on_gpu = extract_isosurface(leaf, 24, offsets.cuda())
    (gradient_on_gpu,) = torch.autograd.grad(on_gpu.square().sum(), leaf)
    assert torch.equal(faces_on_gpu.cpu(), faces)
    torch.testing.assert_close(on_gpu.cpu(), vertices, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_on_gpu.cpu(), gradient, atol=1e-4, rtol=1e-4)

"""Triangles of furniture, held against the solids that they stand for."""

import numpy as np
import pytest

from worlds.furniture import Part, parts
from worlds.meshes import mesh
from worlds.rooms import KINDS

TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
TURN[:, 2] *= np.linalg.det(TURN)  # right-handed
SIZES = {"box": (0.2, 0.3, 0.4), "ellipsoid": (0.2, 0.3, 0.4), "cylinder": (0.3, 0.3, 0.4), "capsule": (0.2, 0.2, 0.4)}
VOLUMES = {
    "box": 8 * 0.2 * 0.3 * 0.4,
    "ellipsoid": 4 / 3 * np.pi * 0.2 * 0.3 * 0.4,
    "cylinder": np.pi * 0.3**2 * 0.8,
    "capsule": np.pi * 0.2**2 * 0.8 + 4 / 3 * np.pi * 0.2**3,
}


def volume(points, faces):
    """What closed surfaces enclose; negative where they are inside out."""
    return np.linalg.det(points[faces]).sum() / 6


@pytest.mark.parametrize("shape", list(SIZES))
def test_a_surface_is_closed_turned_outwards_and_encloses_the_solid(shape):
    at = np.array([0.5, -0.2, 0.7])
    found = mesh([Part(shape, SIZES[shape], tuple(at), TURN, "main")])
    assert volume(found.points - at, found.faces) == pytest.approx(VOLUMES[shape], rel=0.12)
    assert volume(found.points - at, found.faces) < VOLUMES[shape] * (1 + 1e-9), "corners lie on the solid or in it"
    edges = np.round(found.points[found.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 3, 2)], 6) + 0.0
    directed = [(tuple(start), tuple(end)) for start, end in edges.reshape(-1, 2, 3)]
    assert sorted(directed) == sorted((end, start) for start, end in directed), "each edge has a face on both sides"


@pytest.mark.parametrize("kind", KINDS)
def test_normals_of_every_kind_have_length_one_and_point_the_way_faces_do(kind):
    found = mesh(parts(kind))
    assert np.linalg.norm(found.normals, axis=1) == pytest.approx(1)
    first, second, third = found.points[found.faces].transpose(1, 0, 2)
    outwards = np.cross(second - first, third - first)
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    assert (np.einsum("fcd,fd->fc", found.normals[found.faces], outwards) > 0).all()


def test_thin_parts_have_fewer_faces_than_thick_ones():
    thin, thick = (
        mesh([Part("capsule", (radius, radius, 0.3), (0, 0, 0), np.eye(3), "main")]) for radius in (0.01, 0.3)
    )
    assert 3 * len(thin.faces) < len(thick.faces)

"""Directions of preference: unit vectors, one weight per attribute, and neighbours of one."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from trueup.errors import UserError

Sampler = Literal["uniform", "cap", "grid"]
_KNOTS = 4097  # of the cap's angle law; its error is below 1e-6 of theta_max


def unit_direction(target: Sequence[float]) -> np.ndarray:
    """The direction with length 1, [m].

    Raises: UserError where it has no length.
    """
    vector = np.asarray(target, dtype=float)
    length = float(np.linalg.norm(vector)) if vector.size else 0.0
    if not (length > 0 and math.isfinite(length)):
        raise UserError(f"target must be a direction, one weight per reward, got {tuple(target)}")
    found: np.ndarray = vector / length
    return found


def neighbours(
    target: np.ndarray, k: int, theta_max: float, sampler: Sampler, rng: np.random.Generator
) -> np.ndarray:
    """`k` unit directions within `theta_max` degrees of the unit direction `target`, [k, m].

    v_i = cos(phi_i) target + sin(phi_i) u_i, u_i a random unit vector at right angles to it
    uniform: phi ~ U(0, theta_max); cap: density ~ sin(phi)^(m-2), even on the sphere's cap;
    grid: m = 2 alone, evenly from -theta_max to theta_max. With m = 2 the first two are the same:
    two-sided and uniform.
    """
    reach = math.radians(theta_max)
    if sampler == "grid":
        angles = np.linspace(-reach, reach, k) if k > 1 else np.zeros(1)
        across = np.array([-target[1], target[0]])[None].repeat(k, axis=0)
    else:
        draws = rng.random(k)
        angles = reach * draws if sampler == "uniform" else _cap_angles(draws, reach, len(target))
        across = _tangents(target, rng.standard_normal((k, len(target))))
    return rotated(target, across, angles)


def rotated(target: np.ndarray, across: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The target turned by each angle, in radians, toward a unit vector [k, m] across it."""
    turned = np.cos(angles)[:, None] * target + np.sin(angles)[:, None] * across
    found: np.ndarray = np.where(angles[:, None] == 0, target, turned)
    return found


def angles_to(directions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The angle between each direction [k, m] and the target in degrees, exact when small."""
    apart = np.linalg.norm(directions - target, axis=1)
    together = np.linalg.norm(directions + target, axis=1)
    found: np.ndarray = np.degrees(2 * np.arctan2(apart, together))
    return found


def percent_rating(names: Sequence[str], direction: np.ndarray) -> str:
    """The direction in words: `helpfulness*87 + verbosity*50`, in whole percent."""
    return " + ".join(
        f"{name}*{round(100 * weight)}" for name, weight in zip(names, direction, strict=True)
    )


def _tangents(target: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Unit vectors across the target from draws [k, m]."""
    for _ in range(2):  # again, because what is left of a draw along the target is mostly rounding
        draws = draws - (draws @ target)[:, None] * target
        draws = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    return draws


def _cap_angles(draws: np.ndarray, reach: float, m: int) -> np.ndarray:
    """Angles in [0, reach] with density ~ sin^(m-2), by the inverse of their distribution."""
    if reach == 0:
        return np.zeros_like(draws)
    knots = np.linspace(0, reach, _KNOTS)
    density = np.sin(knots) ** (m - 2)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found: np.ndarray = np.interp(draws, mass / mass[-1], knots)
    return found

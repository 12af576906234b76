"""Small ray-traced scenes with exact annotations: sample data of aligned picture, depth and classes, without a download.

Solids (cube, sphere, cylinder, cone) of eight colours, two sizes and two materials stand on a floor before a wall, with
shadows and occlusion; camera, light and floor differ from scene to scene. Numpy alone, seeded; each scene depends on its
seed and number only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes

if TYPE_CHECKING:
    import numpy as np

SHAPES = ("cube", "sphere", "cylinder", "cone")
COLOURS = {
    "red": (200, 45, 40),
    "green": (40, 150, 60),
    "blue": (45, 80, 205),
    "yellow": (230, 205, 40),
    "purple": (135, 50, 165),
    "cyan": (50, 190, 195),
    "brown": (125, 80, 45),
    "gray": (120, 122, 125),
}
SIZES = {"small": 0.38, "large": 0.72}
MATERIALS = ("matte", "shiny")
CLASSES = ("wall", "floor", *SHAPES)
DEPTH_UNIT = 0.01  # scene units to a count of the depth map
LEAST = 40  # pixels of a 96 x 96 picture that an object must show


@takes(count=">=0", seed=">=0", side=">=1")
def scenes(count: int = 64, seed: int = 0, side: int = 96) -> list[dict[str, Any]]:
    """Return rows with `image`, `depth` (16 bits, along the optical axis), `semseg` and `instance` (8 bits), all PIL.

    Beside them `n_objects` and `objects`: box [x0, y0, x1, y1) in pixels, shape, colour, size, material, area.

    Args:
        count: of scenes. seed: of all. side: of the pictures, in pixels.
    """
    return [scene(number, seed, side) for number in range(count)]


@takes(number=">=0", seed=">=0", side=">=1")
def scene(number: int, seed: int = 0, side: int = 96) -> dict[str, Any]:
    """Return one scene; see `scenes`."""
    import numpy as np
    from PIL import Image

    for attempt in range(50):
        source = np.random.default_rng([seed, number, attempt])
        objects = _layout(source)
        if len(objects) < 2:
            continue
        picture, distance, index = _render(objects, source, side)
        if not all(_annotate(each, index == place + 2, side) for place, each in enumerate(objects)):
            continue
        classes = np.array([0, 1, *(2 + SHAPES.index(each["shape"]) for each in objects)], np.uint8)
        depth = np.clip(np.round(distance / DEPTH_UNIT), 0, 65535).astype(np.uint16)
        told = ("box", "shape", "colour", "size", "material", "area")
        return {
            "image": Image.fromarray(picture),
            "depth": Image.fromarray(depth),
            "semseg": Image.fromarray(classes[index]),
            "instance": Image.fromarray(np.where(index >= 2, index - 1, 0).astype(np.uint8)),
            "n_objects": len(objects),
            "objects": [{name: each[name] for name in told} for each in objects],
        }
    raise RuntimeError(f"no layout found for scene {number} of seed {seed}")


def _annotate(solid: dict[str, Any], where: np.ndarray, side: int) -> bool:
    """Note where a solid is seen; tell whether it shows enough of itself."""
    import numpy as np

    rows, columns = np.nonzero(where)
    if len(rows) < LEAST * (side / 96) ** 2:
        return False
    solid["box"] = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    solid["area"] = len(rows)
    return True


def _layout(source: np.random.Generator) -> list[dict[str, Any]]:
    """Draw two to six solids that do not touch."""
    import numpy as np

    wanted = int(source.integers(2, 7))
    solids: list[dict[str, Any]] = []
    for _ in range(200):
        if len(solids) == wanted:
            break
        size = list(SIZES)[source.integers(2)]
        radius, x, y = SIZES[size], source.uniform(-2.1, 2.1), source.uniform(-2.6, 2.6)
        if all(np.hypot(x - each["x"], y - each["y"]) > radius + each["radius"] + 0.12 for each in solids):
            solids.append(
                {
                    "shape": SHAPES[source.integers(4)],
                    "colour": list(COLOURS)[source.integers(8)],
                    "size": size,
                    "material": MATERIALS[source.integers(2)],
                    "x": float(x),
                    "y": float(y),
                    "radius": radius,
                    "turn": float(source.uniform(0, np.pi / 2)),
                }
            )
    return solids


def _render(
    solids: list[dict[str, Any]], source: np.random.Generator, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the picture, the depth and what each pixel shows: 0 the wall, 1 the floor, then the solids."""
    import numpy as np

    eye = np.array([source.uniform(-0.6, 0.6), -7.2 + source.uniform(-0.4, 0.4), 3.6 + source.uniform(-0.5, 0.5)])
    ahead = _unit(np.array([0, 0.0, 0.25]) - eye)
    right = _unit(np.cross(ahead, [0, 0, 1.0]))
    up = np.cross(right, ahead)
    world = {
        "light": _unit(np.array([source.uniform(-0.8, 0.8), -0.7, 1.3])),
        "hues": source.uniform(0.75, 1.0, (2, 3)) * [[150, 155, 165], [150, 145, 135]],
        "cell": source.uniform(0.5, 1.2),
        "phase": source.uniform(0, 5, 2),
        "wall": source.uniform(4.0, 5.5),
    }
    steps, tangent = (np.arange(side) + 0.5) / side * 2, np.tan(np.radians(41) / 2)

    def trace(shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        across, down = np.meshgrid(steps + 2 * shift[0] / side - 1, 1 - steps - 2 * shift[1] / side)
        rays = ahead + tangent * (across[..., None] * right + down[..., None] * up)  # 1 along the optical axis
        parts = _trace(solids, world, eye, rays.reshape(-1, 3))
        return tuple(part.reshape(side, side, *part.shape[1:]) for part in parts)  # type: ignore[return-value]

    shifts = [(x, y) for x in (-0.25, 0.25) for y in (-0.25, 0.25)]
    colours = np.mean([trace(shift)[0] for shift in shifts], 0) + source.normal(0, 2.0, (side, side, 1))
    _, distance, index = trace((0.0, 0.0))
    return np.clip(colours, 0, 255).astype(np.uint8), distance, index


def _trace(
    solids: list[dict[str, Any]], world: dict[str, Any], eye: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return colour, distance and number of what each ray meets first."""
    import numpy as np

    start = np.broadcast_to(eye, rays.shape)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[:, 2] < 0, -start[:, 2] / rays[:, 2], np.inf)
        wall = np.where(rays[:, 1] > 0, (world["wall"] - start[:, 1]) / rays[:, 1], np.inf)
    distances = np.stack([wall, floor, *(_meet(solid, start, rays) for solid in solids)])
    index = distances.argmin(0)
    distance = distances[index, np.arange(len(rays))]
    points = start + distance[:, None] * rays
    normals, colours, shine = np.zeros_like(points), np.zeros_like(points), np.zeros(len(points))
    _paint(index, points, normals, colours, world)
    for place, solid in enumerate(solids):
        where = index == place + 2
        normals[where] = _normal(solid, points[where])
        colours[where] = COLOURS[solid["colour"]]
        shine[where] = solid["material"] == "shiny"
    light = np.broadcast_to(world["light"], points.shape)
    shadow = np.zeros(len(points), bool)
    for solid in solids:
        shadow |= np.isfinite(_meet(solid, points + 2e-3 * normals, light))
    bright = np.clip((normals * world["light"]).sum(-1), 0, 1) * np.where(shadow, 0.15, 1)
    half = _unit(world["light"] - _unit(rays))
    gloss = np.clip((normals * half).sum(-1), 0, 1) ** 40 * shine * ~shadow
    seen = colours * (0.42 + 0.66 * bright[:, None]) * (1 - 0.08 * shine[:, None]) + 230 * gloss[:, None]
    return seen, distance, index


def _paint(
    index: np.ndarray, points: np.ndarray, normals: np.ndarray, colours: np.ndarray, world: dict[str, Any]
) -> None:
    """Give wall and floor their normals and patterns."""
    import numpy as np

    wall, floor, phase = index == 0, index == 1, world["phase"]
    normals[wall], normals[floor] = [0, -1, 0], [0, 0, 1]
    waves = np.sin(3 * points[wall, 0:1] + phase[0]) * np.sin(3 * points[wall, 2:3])
    colours[wall] = world["hues"][0] * (0.93 + 0.07 * waves)
    tiles = sum(np.floor((points[floor, axis] + phase[axis]) / world["cell"]) for axis in (0, 1)) % 2
    colours[floor] = world["hues"][1] * (0.9 + 0.14 * tiles[:, None])


def _unit(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    lengths: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return lengths


def _nearest(*distances: np.ndarray) -> np.ndarray:
    """Return the least distance before the eye, infinite where there is none."""
    import numpy as np

    kept: np.ndarray = np.min([np.where(each > 1e-4, each, np.inf) for each in distances], 0)
    return kept


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both solutions of a t^2 + b t + c = 0, infinite where there are none."""
    import numpy as np

    inside = b * b - 4 * a * c
    real = (inside >= 0) & (np.abs(a) > 1e-12)
    root, twice = np.sqrt(np.where(real, inside, 0)), np.where(real, 2 * a, 1)
    first, second = (np.where(real, (-b + sign * root) / twice, np.inf) for sign in (-1, 1))
    return first, second


def _meet(solid: dict[str, Any], start: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return how far along each ray a solid is met; only rays near its bounding sphere are worked out."""
    import numpy as np

    way = start - np.array([solid["x"], solid["y"], solid["radius"]])
    along = np.einsum("ij,ij->i", way, rays)
    off = np.einsum("ij,ij->i", way, way) - along * along / np.einsum("ij,ij->i", rays, rays)
    near = off < (1.5 * solid["radius"]) ** 2
    found = np.full(len(rays), np.inf)
    if near.any():
        kinds = {"sphere": _meet_sphere, "cube": _meet_cube}
        meet = kinds.get(solid["shape"], _meet_round)
        found[near] = meet(solid, start[near] - np.array([solid["x"], solid["y"], 0.0]), rays[near])
    return found


def _meet_sphere(solid: dict[str, Any], start: np.ndarray, rays: np.ndarray) -> np.ndarray:
    radius = solid["radius"]
    way = start - [0, 0, radius]
    products = (rays * rays).sum(-1), 2 * (way * rays).sum(-1), (way * way).sum(-1) - radius**2
    return _nearest(*_roots(*products))


def _turn(solid: dict[str, Any]) -> np.ndarray:
    import numpy as np

    c, s = np.cos(solid["turn"]), np.sin(solid["turn"])
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def _meet_cube(solid: dict[str, Any], start: np.ndarray, rays: np.ndarray) -> np.ndarray:
    import numpy as np

    half = solid["radius"] * 0.85
    way, rays = (start - [0, 0, half]) @ _turn(solid).T, rays @ _turn(solid).T
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - way) / rays, (half - way) / rays
    low, high = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where((high >= low) & (low > 1e-4), low, np.inf)


def _profile(solid: dict[str, Any]) -> tuple[float, float]:
    """Return height and radius at the floor of a cone or a cylinder."""
    radius = solid["radius"]
    return (2 * radius, 0.95 * radius) if solid["shape"] == "cone" else (1.8 * radius, 0.85 * radius)


def _meet_round(solid: dict[str, Any], start: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Meet a cone or a cylinder."""
    import numpy as np

    (height, radius), flat, way = _profile(solid), rays[:, :2], start[:, :2]
    products = [(flat**2).sum(-1), 2 * (way * flat).sum(-1), (way**2).sum(-1)]
    if solid["shape"] == "cylinder":
        products[2] = products[2] - radius**2
    else:
        slope, left = (radius / height) ** 2, height - start[:, 2]
        products[0] = products[0] - slope * rays[:, 2] ** 2
        products[1] = products[1] + 2 * slope * left * rays[:, 2]
        products[2] = products[2] - slope * left**2
    met = []
    for distance in _roots(*products):
        safe = np.where(np.isfinite(distance), distance, 0)
        tall = start[:, 2] + safe * rays[:, 2]
        met.append(np.where(np.isfinite(distance) & (tall >= 0) & (tall <= height), distance, np.inf))
    if solid["shape"] == "cylinder":
        with np.errstate(divide="ignore", invalid="ignore"):
            lid = (height - start[:, 2]) / rays[:, 2]
        safe = np.where(np.isfinite(lid), lid, 0)
        inside = ((way + safe[:, None] * flat) ** 2).sum(-1) <= radius**2
        met.append(np.where(inside & np.isfinite(lid), lid, np.inf))
    return _nearest(*met)


def _normal(solid: dict[str, Any], points: np.ndarray) -> np.ndarray:
    """Return the outward normals of a solid at points on it."""
    import numpy as np

    way, radius, shape = points - np.array([solid["x"], solid["y"], 0.0]), solid["radius"], solid["shape"]
    if shape == "sphere":
        return _unit(way - [0, 0, radius])
    if shape == "cube":
        local = (way - [0, 0, radius * 0.85]) @ _turn(solid).T
        found, axis = np.zeros_like(local), np.abs(local).argmax(-1)
        found[np.arange(len(local)), axis] = np.sign(local[np.arange(len(local)), axis])
        return found @ _turn(solid)
    height, wide = _profile(solid)
    outward = way[:, :2] / (np.linalg.norm(way[:, :2], axis=-1, keepdims=True) + 1e-9)
    if shape == "cylinder":
        found = np.concatenate([way[:, :2], np.zeros((len(way), 1))], 1)
        found[way[:, 2] > height - 1e-3] = [0, 0, 1]
        return _unit(found)
    return _unit(np.concatenate([outward, np.full((len(way), 1), wide / height)], 1))

"""A run's pictures: in its folders, and in memory for the report."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from eseg_jax.report import flow, page, panels
from eseg_jax.report.files import file_name, write_bytes

_MAX_TILE_WIDTH = 1024  # wider images are thinned before they become panels
_MAX_FLOW_WIDTH = 512
_FILM_WIDTH = 168


class Gallery:
    """The pictures of a workdir; a resumed run finds those of the steps it keeps.

    Attributes:
      pictures, film, flows, worst: see `page.Run`.
    """

    def __init__(
        self, workdir: epath.Path, colours: np.ndarray, class_names: Sequence[str]
    ):
        """Of uint8 `[c, 3]` and c names; `load` reads what the folders hold."""
        self.pictures: dict[str, tuple[int, dict]] = {}
        self.film: dict[str, dict[int, np.ndarray]] = {}
        self.flows: dict[str, tuple[int, np.ndarray]] = {}
        self.worst: list[page.Worst] = []
        self._workdir = workdir
        self._colours, self._class_names = colours, class_names

    def load(self, last_step: int) -> None:
        """Reads the pictures of the steps up to `last_step`."""
        for name, found in self._saved("images", last_step).items():
            for step, path in page.spread(found, page.FILM_STEPS):
                self._keep(step, name, panels.decode(path.read_bytes()))
        for name, found in self._saved("flow", last_step).items():
            step, path = found[-1]
            self.flows[name] = (step, panels.read_png(path))
        worst = read_worst(self._workdir / "worst")
        self.worst = [picture for picture in worst if picture.step <= last_step]

    def add(self, step: int, example: dict) -> None:
        """Writes an image's panel, and the flows of its "views" if it has any."""
        pixels, tile = _panel(example, self._colours, self._class_names)
        name = file_name(str(example["id"]))
        png = panels.encode(pixels, tile)
        write_bytes(self._workdir / "images" / f"{step}_{name}.png", png)
        self._keep(step, name, panels.cut(pixels, tile))
        if example.get("views"):
            self._add_flow(step, name, example)

    def replace_worst(self, step: int, worst: Sequence[dict]) -> None:
        """Replaces the panels of the worst images; see `write_worst`."""
        folder = self._workdir / "worst"
        self.worst = write_worst(folder, step, worst, self._colours, self._class_names)

    def _keep(self, step: int, name: str, tiles: dict) -> None:
        self.pictures[name] = (step, tiles)
        film = self.film.setdefault(name, {})
        film[step] = panels.thin(tiles["prediction"], _FILM_WIDTH)

    def _add_flow(self, step: int, name: str, example: dict) -> None:
        image = panels.thin(np.asarray(example["image"]), _MAX_FLOW_WIDTH)
        folder = self._workdir / "flow"
        folder.mkdir(parents=True, exist_ok=True)
        sheet = flow.sheet(image, example["views"])
        panels.write_png(folder / f"{step}_{name}.png", sheet)
        self.flows[name] = (step, sheet)

    def _saved(self, folder: str, last_step: int) -> dict[str, list[tuple]]:
        """(step, path) of each name's pictures up to a step, in order."""
        found: dict[str, list[tuple[int, epath.Path]]] = {}
        for path in (self._workdir / folder).glob("*_*.png"):
            step, name = path.stem.split("_", 1)
            if step.isdigit() and int(step) <= last_step:
                found.setdefault(name, []).append((int(step), path))
        return {name: sorted(pictures) for name, pictures in found.items()}


def write_worst(folder, step: int, worst, colours, class_names) -> list[page.Worst]:
    """Replaces the panels in a folder by those of the worst images, the worst first.

    Args:
      folder: gets `<rank>_<name>.png`.
      step: of the weights that predicted.
      worst: dicts as for `Reporter.log_images`, with "miou".
      colours, class_names: uint8 `[c, 3]` and c names.
    """
    folder, shown = epath.Path(folder), []
    for path in folder.glob("*.png"):
        path.unlink()
    for rank, example in enumerate(worst, start=1):
        pixels, tile = _panel(example, colours, class_names)
        name = file_name(str(example["id"]))
        notes = {"step": str(step), "miou": repr(float(example["miou"]))}
        png = panels.encode(pixels, tile, **notes)
        write_bytes(folder / f"{rank}_{name}.png", png)
        tiles = panels.cut(pixels, tile)
        shown.append(page.Worst(name, step, float(example["miou"]), tiles))
    return shown


def read_worst(folder) -> list[page.Worst]:
    """What `write_worst` left in a folder, the worst first."""
    found = []
    for path in sorted(
        epath.Path(folder).glob("*_*.png"),
        key=lambda path: int(path.stem.split("_")[0]),
    ):
        png = path.read_bytes()
        notes, name = panels.notes(png), path.stem.split("_", 1)[1]
        step, miou = int(notes["step"]), float(notes["miou"])
        found.append(page.Worst(name, step, miou, panels.decode(png)))
    return found


def _panel(example: dict, colours, class_names) -> tuple[np.ndarray, tuple[int, int]]:
    """A panel of one image, thinned if it is wide, and the (h, w) of its tiles."""
    maps = (example[name] for name in ("image", "label", "prediction"))
    maps = [panels.thin(np.asarray(m), _MAX_TILE_WIDTH) for m in maps]
    return panels.panel(*maps, colours, class_names), maps[1].shape

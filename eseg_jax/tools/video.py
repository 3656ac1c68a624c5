"""Frames from videos and cameras, and MP4 files from frames, through FFmpeg."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# What FFmpeg calls cameras: its input format and the name of number N.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


def ffmpeg() -> str:
    """Path of the program: that of the system, or of the package imageio-ffmpeg.

    Raises:
      ValueError: there is none; says how to install it.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ValueError(
            "Videos need FFmpeg: pip install 'eseg_jax[video]', or put the program "
            "ffmpeg on the PATH."
        ) from None
    return imageio_ffmpeg.get_ffmpeg_exe()


def read(source: str | int) -> tuple[Iterator[np.ndarray], float, int | None]:
    """Opens a video file, or a camera by its number.

    Returns:
      frames uint8 [h, w, 3] RGB, a generator to be closed; frames per second; about
      how many there are, None if that is unknown.

    Raises:
      OSError: it cannot be opened.
    """
    name = ["-i", str(source)]
    if isinstance(source, int):
        if sys.platform not in _CAMERAS:
            raise OSError(
                f"Cameras are not supported on {sys.platform}; record a video and give "
                "its path."
            )
        kind, pattern = _CAMERAS[sys.platform]
        name = ["-f", kind, "-i", pattern.format(source)]
    command = [ffmpeg(), "-hide_banner", "-nostdin"]
    facts = subprocess.run(
        [*command, *name], capture_output=True, text=True, errors="replace"
    ).stderr
    if " Video: " not in facts:
        what = "Camera" if isinstance(source, int) else "The video"
        reason = (facts.strip().splitlines() or ["no answer"])[-1]
        raise OSError(f"{what} {source} cannot be opened: {reason}")
    rate = re.search(r"([\d.]+) fps", facts)
    fps = float(rate[1]) if rate else 25.0
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", facts)
    seconds = length and sum(
        float(part) * unit
        for part, unit in zip(length.groups(), (3600, 60, 1), strict=True)
    )
    count = round(seconds * fps) if seconds else None
    output = ["-loglevel", "error", "-f", "image2pipe", "-c:v", "ppm", "-"]
    return _frames([*command, *name, *output]), fps, count


def _frames(command: list[str]) -> Iterator[np.ndarray]:
    # Its own session: Ctrl-C is for us, who then close it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        # PPM: the lines "P6", "width height" and "255", then the pixels.
        while process.stdout.readline():
            width, height = map(int, process.stdout.readline().split())
            process.stdout.readline()
            data = process.stdout.read(width * height * 3)
            if len(data) < width * height * 3:
                return  # the last frame was cut
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    finally:
        process.stdout.close()
        process.terminate()
        process.wait()


@contextlib.contextmanager
def writer(
    path: pathlib.Path, size: tuple[int, int], fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields add(frame) for an H.264 MP4 that appears under its name once complete.

    Args:
      path: of the file.
      size: (height, width) of the frames, [h, w, 3] or grey [h, w]; an odd side loses
        its last row or column, which H.264 cannot hold.
      fps: frames per second.

    Raises:
      ValueError: from add, for a frame of another size.
      OSError: FFmpeg fails, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    height, width = (side // 2 * 2 for side in size)
    frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    h264 = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p"]
    process = subprocess.Popen(
        [ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"]
        + [*frames, "-r", f"{fps:g}", "-i", "-"]
        + [*h264, "-movflags", "+faststart", str(partial)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )

    def add(frame: np.ndarray) -> None:
        if frame.shape[:2] != tuple(size):
            raise ValueError(
                f"A frame for {path} is {frame.shape[1]}x{frame.shape[0]} and the "
                f"first was {size[1]}x{size[0]}; a video has frames of one size."
            )
        if frame.ndim == 2:
            frame = np.repeat(frame[..., None], 3, axis=-1)
        process.stdin.write(frame[:height, :width].tobytes())

    try:
        yield add
        process.stdin.close()
        if process.wait():
            raise OSError(f"FFmpeg could not write {path}; its message is above.")
        os.replace(partial, path)
    finally:
        process.stdin.close()
        process.wait()
        partial.unlink(missing_ok=True)

"""Scalars for TensorBoard."""

import os
import socket
import time

from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from eseg_jax.report.files import GrowingFile


class Events:
    """TensorBoard's event file, one for each start of the program."""

    def __init__(self, workdir: epath.Path):
        name = f"{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = GrowingFile(workdir / f"events.out.tfevents.{name}")
        self._writer = RecordWriter(self.file)
        self._add(file_version="brain.Event:2")

    def restart(self, step: int) -> None:
        """Makes TensorBoard drop what an earlier, killed run logged beyond `step`."""
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=step + 1, session_log=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs values by tag; those that are None are left out."""
        value = [
            summary_pb2.Summary.Value(tag=tag, simple_value=v)
            for tag, v in values.items()
            if v is not None
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=value))

    def _add(self, **fields) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())

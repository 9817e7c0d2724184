"""TensorBoard events of a fold: a file in the run's folder to which each epoch's numbers are added.

torch's SummaryWriter writes from a thread of its own, where a full disk is a traceback, and half a record; here an epoch's
records are added whole or not at all, by the process that trains.
"""

import io
import os
import platform
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

import files


class Events:
    """The events of one training of a fold; a fold that goes on has another file, as with torch's writer."""

    def __init__(self, run, fold):
        self.tag = f"fold{fold}"
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{self.tag}"
        self.path = Path(run) / name

    def write(self, epoch, numbers):
        """Add {name: number} of an epoch, as scalars fold0/NAME."""
        records = io.BytesIO()
        writer, now = RecordWriter(records), time.time()
        if not self.path.exists():
            writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for name, number in numbers.items():
            summary = Summary(value=[Summary.Value(tag=f"{self.tag}/{name}", simple_value=number)])
            writer.write(Event(wall_time=now, step=epoch, summary=summary).SerializeToString())
        files.append(self.path, records.getvalue())

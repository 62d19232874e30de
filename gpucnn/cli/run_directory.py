"""The directory of a training run: what `gpucnn train` writes, and what it goes on from."""

import json
import re
import time
from pathlib import Path

import gpucnn
from gpucnn import plots
from gpucnn.cli.options import MODEL_FILE
from gpucnn.errors import ArgumentError, FileFormatError
from gpucnn.files import write_atomically

CHECKPOINT, SETTINGS = "checkpoint.safetensors", "settings.json"
RESULTS = {
    MODEL_FILE: "the trained network, for `gpucnn evaluate` and `gpucnn predict`",
    "history.csv": "loss and errors of each epoch",
    "learning_curve.png": "the same as a picture",
    "mistakes.png": "the test images that it misreads",
    CHECKPOINT: "where `gpucnn train --resume --out DIR` goes on",
    SETTINGS: "the options of the run",
}


class RunDirectory:
    """One run's files. Nothing is written before `begin`."""

    def __init__(self, path):
        self.path = Path(path)

    @property
    def checkpoint(self):
        return self.path / CHECKPOINT

    def check_unused(self):
        """Raise `ArgumentError` if a run has left something here that would be overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise ArgumentError(f"--out: expected a directory, got the file {self.path}")
        found = [name for name in RESULTS if name != SETTINGS and (self.path / name).exists()]
        if found:
            raise ArgumentError(f"--out: expected a directory without a run, got {self.path} with "
                                f"{', '.join(found)}; --resume goes on with that run")

    def settings(self):
        """The settings of the run that was begun here."""
        path = self.path / SETTINGS
        if not path.is_file():
            raise ArgumentError(f"--resume: expected a run in {self.path}, "
                                f"found no {SETTINGS} there")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))["options"]
            if isinstance(settings, dict):
                return settings
        except (ValueError, KeyError, TypeError):
            pass
        raise FileFormatError(f"{path}: expected the options of a run as JSON, got something else")

    def begin(self, settings):
        """Make the directory and note the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"gpucnn": gpucnn.__version__, "options": settings}
        write_atomically(self.path / SETTINGS, (json.dumps(content, indent=2) + "\n").encode())

    def finish(self, network, history, test, answers, held_out):
        """Write the results of a run that has ended; `answers` are those to the test images."""
        gpucnn.save_network(network, self.path / MODEL_FILE)
        history.save_csv(self.path / "history.csv")
        for name, figure in (
                ("learning_curve.png", plots.learning_curve(history, held_out=held_out)),
                ("mistakes.png", plots.mistakes(test.images, test.labels, answers))):
            write_atomically(self.path / name, plots.png(figure))

    def listing(self):
        """The written files with what each is for, a line each."""
        width = max(map(len, RESULTS))
        return "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in RESULTS.items()
                         if (self.path / name).exists())


def default_path(model, data_name):
    """runs/<model>-<dataset>-<date and time>, with a number behind it if that is taken."""
    data_name = re.sub(r"[^\w.-]+", "-", data_name)
    first = path = Path("runs") / f"{model}-{data_name}-{time.strftime('%Y-%m-%d-%H%M%S')}"
    number = 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path

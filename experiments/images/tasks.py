"""Where the tasks of the few-shot image experiments come from, and the net that sees them."""

import functools
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from metarl.distributed import ALONE, Ranks
from metarl.errors import InputError
from metarl.images import (
    DenseNet,
    Episode,
    EpisodeIndex,
    ImageClasses,
    PooledConvNet,
    Split,
    StridedConvNet,
    draw_episodes,
    gather_episodes,
    load_mini_imagenet,
    load_omniglot,
    omniglot_split,
)
from metarl.images.mini_imagenet import SIZE as MINI_SIZE
from metarl.nets import scale_layer

from ..configs.images import Config
from ..machine import Machine


class Tasks(NamedTuple):
    """Episodes: to adapt on, and to measure on."""

    support: Episode
    query: Episode

    @property
    def number(self) -> int:
        """How many tasks these are."""
        return len(self.query.labels)

    def part(self, rows: slice) -> "Tasks":
        """Some of the tasks."""
        return Tasks(*(Episode(e.images[rows], e.labels[rows]) for e in self))


@dataclass(frozen=True)
class ChosenTasks:
    """Tasks whose images are gathered part by part: all of an evaluation's would not fit.

    Attributes:
        data: the classes that the index counts.
        index: which of their images make the tasks.
        machine: where the images go, and how they are stored there.
    """

    data: ImageClasses
    index: EpisodeIndex
    machine: Machine

    @property
    def number(self) -> int:
        """How many tasks these are."""
        return len(self.index.classes)

    def part(self, rows: slice = slice(None)) -> Tasks:
        """Some of the tasks, with their images."""
        index = EpisodeIndex(*(x[rows] for x in self.index))
        machine = self.machine
        both = gather_episodes(self.data, index, dtype=machine.torch_dtype, device=machine.device)
        return Tasks(*both)


def build_net(config: Config, generator: torch.Generator) -> torch.nn.Module:
    """The network of a configuration, weights drawn from ``generator``."""
    steps = config.steps if config.batch_norm == "per_step" else None
    mini = config.dataset == "mini-imagenet"
    net: DenseNet | PooledConvNet | StridedConvNet
    if config.net == "dense":
        inputs = 3 * MINI_SIZE**2 if mini else 784
        net = DenseNet(config.ways, inputs=inputs, steps=steps, generator=generator)
    elif config.net == "pooled":
        size, channels = (MINI_SIZE, 3) if mini else (28, 1)
        net = PooledConvNet(
            config.ways, channels=channels, size=size, steps=steps, generator=generator
        )
    else:
        net = StridedConvNet(config.ways, steps=steps, generator=generator)
    scale_layer(net.head, config.head_scale)
    return net


class Source:
    """Episodes of the configured data set; images are read when they are first wanted."""

    def __init__(self, config: Config, machine: Machine, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.machine = machine
        self.ranks = ranks
        self.read = functools.cache(self._read)
        self.classes = functools.cache(self._classes)

    def check(self) -> None:
        """Read what training needs, on this rank, and see that its tasks can be drawn from it.

        Raises:
            NoDataError: the data set is not there.
            InputError: it is damaged, or has too few classes or images for the tasks.
        """
        config = self.config
        needed = config.shots + config.queries
        for split in ("train", "validation"):
            classes, images = self.read(split).images.shape[:2]
            if config.ways > classes:
                raise InputError(
                    f"--ways {config.ways}: {config.dataset} has {classes} {split} classes"
                )
            if needed > images:
                raise InputError(
                    f"--shots {config.shots} and as many or --query images beside them are "
                    f"{needed} of a class, and {config.dataset} has {images}"
                )

    def _classes(self, split: Split) -> ImageClasses:
        classes = self.ranks.together(lambda: self.read(split))
        if self.ranks.size > 1:
            digest = hashlib.sha256(np.ascontiguousarray(classes.images).data).hexdigest()
            self.ranks.require_same(f"{split} images", f"SHA-256 {digest}")
        return classes

    def _read(self, split: Split) -> ImageClasses:
        if self.config.dataset == "omniglot":
            return omniglot_split(load_omniglot(self.config.data), split)
        return load_mini_imagenet(self.config.data, split)

    def tasks(
        self,
        split: Split,
        rng: np.random.Generator,
        tasks: int,
        queries: int,
        rows: slice = slice(None),
    ) -> ChosenTasks:
        """Fresh tasks of a split; of so many ``tasks`` those of some rows."""
        config = self.config
        data = self.classes(split)
        index = draw_episodes(
            rng,
            classes=data.images.shape[0],
            images=data.images.shape[1],
            tasks=tasks,
            ways=config.ways,
            shots=config.shots,
            queries=queries,
            rotate=config.rotate and config.dataset == "omniglot",
        )
        return ChosenTasks(data, EpisodeIndex(*(x[rows] for x in index)), self.machine)

"""Few-shot image classification: data, episodes, networks and losses."""

from .batch_norm import BatchNorm, adapts
from .classes import SPLITS, ImageClasses, Split
from .download import download_omniglot
from .episodes import (
    Episode,
    EpisodeIndex,
    at_step,
    draw_episodes,
    gather_episodes,
    repeat_support,
    sample_episodes,
)
from .losses import Classified, cross_entropy
from .mini_imagenet import load_mini_imagenet
from .nets import DenseNet, PooledConvNet, StridedConvNet
from .omniglot import load_omniglot, omniglot_split
from .roots import data_root

__all__ = [
    "SPLITS",
    "BatchNorm",
    "Classified",
    "DenseNet",
    "Episode",
    "EpisodeIndex",
    "ImageClasses",
    "PooledConvNet",
    "Split",
    "StridedConvNet",
    "adapts",
    "at_step",
    "cross_entropy",
    "data_root",
    "download_omniglot",
    "draw_episodes",
    "gather_episodes",
    "load_mini_imagenet",
    "load_omniglot",
    "omniglot_split",
    "repeat_support",
    "sample_episodes",
]

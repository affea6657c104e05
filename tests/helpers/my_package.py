"""A user's package: importing it registers environments, as gymnasium wants it."""

import gymnasium
from walkers import Walker

for name, discrete in (("MyTask-v0", False), ("MyChoice-v0", True)):
    gymnasium.register(f"{name}", lambda discrete=discrete: Walker(discrete=discrete))

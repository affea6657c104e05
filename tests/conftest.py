"""One thread, one seed: what every test starts from."""

import os

# Before numpy and torch: their thread pools read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The compiler's own workers would outlive the tests that started them.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# Children that are forked here could not use a GPU; tests of devices make up one of their own.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import signal

import hypothesis
import torch

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")
torch.set_num_threads(1)
# Tests of the hang-up mean one that nobody ignores, as nohup would have it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

"""What pytest leaves alone where it cannot run: the CUDA kernels import Triton, which only some
systems have.
"""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["anystep/nn/kernels/cuda.py"]

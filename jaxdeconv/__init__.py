"""Transposed convolutions for JAX, exact and fast. The top level is the TensorFlow convention."""

from jaxdeconv._lowerings import Implementation
from jaxdeconv.tf import conv1d_transpose, conv2d_transpose, conv3d_transpose, conv_transpose

__version__ = "0.1.0"
__all__ = ["Implementation", "__version__", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "conv_transpose"]

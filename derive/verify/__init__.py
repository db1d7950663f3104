"""Verification: the `reference`, the `regimes` it looks at, the `checks`, and how each kind of code is executed.

CUDA in `ptx`, without a GPU; layers for Caffe in `caffe`, in Caffe itself.
"""

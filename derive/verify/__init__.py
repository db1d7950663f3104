"""Verification: the `reference`, the `regimes` it looks at, the `checks`, and how each kind of code is executed.

What they find by regime, beside what `naive` code does, is in `accuracy`. CUDA is executed in `ptx`, without a GPU, and
layers for Caffe in `caffe`, in Caffe itself.
"""

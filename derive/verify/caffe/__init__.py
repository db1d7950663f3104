"""Real Caffe: where its `sources` come from, how it is built and found (`build`), and a layer executed in it (`layer`).

``python -m derive_triplet.derive.verify.caffe`` builds it, once, into the user's cache.
"""

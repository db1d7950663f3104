"""The library. Data flows one way, and each arrow is one function.

    catalogue: Distance, Loss -> Objective   what is computed, as the literature defines it (`expression` parses it)
        differentiate -> Derivation          gradients as checked `steps` (`stabilise`, `functions`, `properties`)
            lower -> RowKernel               `kernel`: reductions, scalars, maps
                targets: generate -> Product source files, from templates and a printer
                    verify -> Report         run or compiled, against a reference that never saw the derivation
    regenerate                               a tree of products on disk: write it, check it

`api` puts the arrows together; `symbols`, `evaluate`, `highprecision`, `printing` and `text` serve all of them.
"""

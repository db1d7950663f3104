"""The library. Data flows one way, and each arrow is one function.

    catalogue: Distance, Loss -> Objective   what is computed, as the literature defines it
        differentiate -> Derivation          gradients as checked steps
            prove -> Proof (proof)           what a document shows: LaTeX and PDF
            lower -> RowKernel (kernel)      stages of reductions and scalars, then maps
                targets: generate -> Product source files, from templates and a printer
                    verify -> Report         run or compiled, against a reference that never saw the derivation
                                             (verify.ahead: the reference is computed while SymPy is imported)
                    measure -> Accuracy      the same errors by regime, beside those of naive code (verify.accuracy)
    make (batch)                             many requests, in several processes (forked)
    regenerate                               a tree of products on disk: write it, check it
    api                                      the arrows put together

Definitions
    expression     the language of the definitions: parsed, never evaluated
    custom         a user's own loss, from an expression or a TOML file
    examine        its kinks, and where it has no value
    parity         the losses of other libraries as these compute them
    symbols        x, y, d, k, n, ... and a definition as a SymPy expression
    functions      SymPy nodes of our own: sigmoid, softplus, positive part, step, masked ratio
    reductions     sums and maxima over components, and how much they grow with a term
    highprecision  a definition at mpmath numbers
Derivation
    steps          an equality that is checked when it is made; a lemma is a chain of them
    evaluate       a SymPy expression at mpmath numbers, which is how a step is checked
    lemmas         the gradient of a distance, and the slopes of a scalar loss
    stabilise      the identities that make a loss accurate
    normalization  the gradients through x/|x|, where embeddings are normalized first
    properties     bounds, and kinks
    second         second derivatives: the blocks of the Hessian
Numbers
    formats        the float types: what each can hold
    units          a kernel on unit vectors, for normalized embeddings
    largest        a kernel on components over the largest of them, for sums of powers
    hvp            the kernel of a Hessian-vector product
    forward        the maps and weights that it is made of, by forward-mode differentiation
    rates          the rates of the numbers of a kernel, by the chain rule
    rescale        a kernel on scaled components, for rows whose sums leave the range of the type
C++
    targets/cpp    what CUDA, Caffe and C share: the slots of functions on a row; of the first two also the printer
Caffe
    compose        a loss as layers that every Caffe has, rule by rule
    layers         layers as data, and the text that Caffe reads
CUDA
    launches       the kernels that there are, and which one a launcher starts
Proofs
    proof          the displays of a document, and the words that hold a formula
    dictionary     the names in generated code, and what a document calls them
    table          the gradients at one triplet, by formula and by differences
    pictures       curves and fields as coordinates
    typeset        LaTeX to PDF, by one of several engines
Printing
    printing       infix notation, which text and programming languages share
    text, latex    for terminals and comments; for documents and notebooks
Everything
    errors         what is raised
    version        of the tool
"""

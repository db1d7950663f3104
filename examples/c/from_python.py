"""Calls a generated C layer from Python, as any language with a foreign function interface can; here it is ctypes.

Make the layer with `derive-triplet --norm l2 --target c -o generated`, and a library of it with
`cc -std=c11 -O3 -shared -fPIC generated/c/triplet_softmax_mse_l2.c -lm -o triplet.so`; the argument is that library.
"""

import ctypes
import random
import sys

ROWS, DIM = 256, 32
MATRIX, ROW = ctypes.c_float * (ROWS * DIM), ctypes.c_float * ROWS

library = ctypes.CDLL(sys.argv[1])
library.triplet_softmax_mse_l2_message.restype = ctypes.c_char_p
# constants have a type of their own: ctypes would pass any number as an int
REAL, SIZE = ctypes.c_float, ctypes.c_size_t


def checked(status: int) -> None:
    """Raise what the library says, if it refuses a call."""
    if status:
        raise ValueError(library.triplet_softmax_mse_l2_message(status).decode())


random.seed(0)
embeddings = [MATRIX(*(random.gauss(0, 1) for _ in range(ROWS * DIM))) for _ in range(3)]
gradients = [MATRIX() for _ in range(3)]
losses, mean = ROW(), REAL()

checked(
    library.triplet_softmax_mse_l2_forward_backward_f32(
        *embeddings, None, REAL(1 / ROWS), losses, *gradients, SIZE(ROWS), SIZE(DIM), REAL(1.0)
    )
)
checked(
    library.triplet_softmax_mse_l2_reduce_f32(losses, None, ctypes.c_double(1 / ROWS), ctypes.byref(mean), SIZE(ROWS))
)
print(f"mean loss {mean.value:.6f}, the first component of dL/dx {gradients[0][0]:.6f}")

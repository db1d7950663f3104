// Calls a generated layer: the mean loss of a batch of random triplets, its gradients, and a few steps downhill.
//
//     derive-triplet --norm l2 --target c -o generated
//     cc -std=c11 -O3 -I generated/c examples/c/main.c generated/c/triplet_softmax_mse_l2.c -lm -o example
//
// With -fopenmp rows are shared among threads, and with -march=native vectors are as wide as the machine's.
#include "triplet_softmax_mse_l2.h"

#include <stdio.h>
#include <stdlib.h>

static void check(int status, const char *what)
{
    if (status == TRIPLET_SOFTMAX_MSE_L2_OK) return;
    fprintf(stderr, "%s: %s\n", what, triplet_softmax_mse_l2_message(status));
    exit(1);
}

int main(void)
{
    const size_t rows = 4096, dim = 128, size = rows * dim;
    const float temperature = 1.0f, rate = 1.0f;

    // x, x_pos, x_neg, and a gradient for each; losses of the rows
    float *embeddings[3], *gradients[3], *loss = malloc(rows * sizeof *loss), mean;
    if (!loss) return 1;
    for (int which = 0; which < 3; ++which) {
        embeddings[which] = malloc(size * sizeof **embeddings);
        gradients[which] = malloc(size * sizeof **gradients);
        if (!embeddings[which] || !gradients[which]) return 1;
        for (size_t k = 0; k < size; ++k) embeddings[which][k] = (float)rand() / (float)RAND_MAX - 0.5f;
    }

    for (int step = 0; step <= 100; ++step) {
        // the gradients of the mean: no upstream gradient, and 1/rows as the factor
        check(triplet_softmax_mse_l2_forward_backward_f32(embeddings[0], embeddings[1], embeddings[2], NULL,
                                                          1.0f / (float)rows, loss, gradients[0], gradients[1],
                                                          gradients[2], rows, dim, temperature),
              "forward_backward");
        if (step % 20 == 0) {
            check(triplet_softmax_mse_l2_reduce_f32(loss, NULL, 1.0 / (double)rows, &mean, rows), "reduce");
            printf("step %3d: mean loss %.6f\n", step, (double)mean);
        }
        for (int which = 0; which < 3; ++which) {
            for (size_t k = 0; k < size; ++k) embeddings[which][k] -= rate * (float)rows * gradients[which][k];
        }
    }
    for (int which = 0; which < 3; ++which) {
        free(embeddings[which]);
        free(gradients[which]);
    }
    free(loss);
    return 0;
}

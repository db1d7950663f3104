// Calls a generated layer: the mean loss of a batch of random triplets, its gradients, and a few steps downhill.
//
//     nvcc -std=c++17 -I generated/cuda examples/cuda/main.cu generated/cuda/triplet_softmax_mse_l2.cu -o example
#include "triplet_softmax_mse_l2.cuh"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
    std::exit(1);
}

__global__ void step_downhill(float* embedding, const float* gradient, float rate, long long size) {
    const long long k = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k < size) embedding[k] -= rate * gradient[k];
}

}  // namespace

int main() {
    const long long rows = 4096, dim = 128, size = rows * dim;
    const float temperature = 1.0f, rate = 1.0f;

    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    // x, x_pos, x_neg, and a gradient for each; losses of the rows, and their mean
    float *embeddings[3], *gradients[3], *loss, *mean;
    std::vector<float> values(size);
    for (int which = 0; which < 3; ++which) {
        for (float& value : values) value = std::rand() / float(RAND_MAX) - 0.5f;
        check(cudaMalloc(&embeddings[which], size * sizeof(float)), "cudaMalloc");
        check(cudaMalloc(&gradients[which], size * sizeof(float)), "cudaMalloc");
        check(cudaMemcpy(embeddings[which], values.data(), size * sizeof(float), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    check(cudaMalloc(&loss, rows * sizeof(float)), "cudaMalloc");
    check(cudaMalloc(&mean, sizeof(float)), "cudaMalloc");

    for (int step = 0; step <= 100; ++step) {
        // the gradients of the mean: no upstream gradient, and 1/rows as the factor
        check(triplet_softmax_mse_l2_forward_backward_f32(
                  embeddings[0], embeddings[1], embeddings[2], nullptr, 1.0f / rows, loss, gradients[0], gradients[1],
                  gradients[2], rows, dim, temperature, stream),
              "forward_backward");
        if (step % 20 == 0) {
            float found;
            check(triplet_softmax_mse_l2_reduce_f32(loss, nullptr, 1.0 / rows, mean, rows, stream), "reduce");
            check(cudaMemcpyAsync(&found, mean, sizeof(float), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
            check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
            std::printf("step %3d: mean loss %.6f\n", step, found);
        }
        for (int which = 0; which < 3; ++which) {
            step_downhill<<<unsigned((size + 255) / 256), 256, 0, stream>>>(embeddings[which], gradients[which],
                                                                          rate * rows, size);
            check(cudaGetLastError(), "step_downhill");
        }
    }
    for (int which = 0; which < 3; ++which) {
        check(cudaFree(embeddings[which]), "cudaFree");
        check(cudaFree(gradients[which]), "cudaFree");
    }
    check(cudaFree(loss), "cudaFree");
    check(cudaFree(mean), "cudaFree");
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

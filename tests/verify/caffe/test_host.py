"""The GPU code of a layer, run whole in real Caffe on the CPU: a block is threads, and the GPU's memory is the CPU's.

Kernels are executed from PTX by verification, of which the host's part is nothing but compiled. Here both devices do
the same, with every gradient left out and with weights, in code that ends where it leaves the bounds of an array.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.verify.caffe import build, layer

pytestmark = pytest.mark.needs("caffe")

DEVICE = r"""
#include <pthread.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "caffe/layers/loss_layer.hpp"

// what CUDA's compiler knows, and Caffe's headers do with it
#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&barrier)
#define CUDA_KERNEL_LOOP(i, n) \
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += blockDim.x * gridDim.x)
#define CUDA_POST_KERNEL_CHECK
#undef STUB_GPU
#define STUB_GPU(layer)

static const int planted = getenv("PLANTED") ? atoi(getenv("PLANTED")) : 0;
const int CAFFE_CUDA_NUM_THREADS = 32;  // of two blocks
static int CAFFE_GET_BLOCKS(int count) { return (count + CAFFE_CUDA_NUM_THREADS - 1) / CAFFE_CUDA_NUM_THREADS; }

struct Index { int x; };
static Index blockIdx, blockDim, gridDim;
static thread_local Index threadIdx;
static pthread_barrier_t barrier;

// One block after the other.
template <typename... Of, typename... Given>
void launch(int blocks, int threads, void (*kernel)(Of...), Given... given) {
  gridDim.x = blocks, blockDim.x = threads;
  pthread_barrier_init(&barrier, NULL, threads);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    std::vector<std::thread> block;
    for (int thread = 0; thread < threads; ++thread) {
      block.emplace_back([=] { threadIdx.x = thread; kernel(given...); });
    }
    for (std::thread& thread : block) thread.join();
  }
}

const void* caffe::SyncedMemory::gpu_data() { return cpu_data(); }
void* caffe::SyncedMemory::mutable_gpu_data() { return mutable_cpu_data(); }
"""
MAIN = r"""
using caffe::Blob;
using std::vector;

static int differing = 0;

template <typename Dtype>
void compare(Dtype a, Dtype b) {
  differing += !(std::abs(a - b) <= 64 * std::numeric_limits<Dtype>::epsilon() * std::max(std::abs(a), Dtype(1)));
}

template <typename Dtype>
struct Both : caffe::LAYER<Dtype> {
  using caffe::LAYER<Dtype>::LAYER;

  // The loss, and the gradients of the three embeddings.
  vector<Dtype> run(bool gpu, const vector<Blob<Dtype>*>& bottom, const vector<bool>& wanted) {
    Blob<Dtype> loss;
    const vector<Blob<Dtype>*> top(1, &loss);
    this->SetUp(bottom, top);
    gpu ? this->Forward_gpu(bottom, top) : this->Forward_cpu(bottom, top);
    vector<Dtype> found(1, loss.cpu_data()[0]);
    loss.mutable_cpu_diff()[0] = 3;
    for (int i = 0; i < 3; ++i) caffe::caffe_set(bottom[i]->count(), Dtype(1234), bottom[i]->mutable_cpu_diff());
    gpu ? this->Backward_gpu(top, wanted, bottom) : this->Backward_cpu(top, wanted, bottom);
    for (int i = 0; i < 3; ++i) {
      const Dtype* gradient = bottom[i]->cpu_diff();
      found.insert(found.end(), gradient, gradient + bottom[i]->count());
    }
    return found;
  }
};

template <typename Dtype>
void run(size_t bottoms, size_t left_out) {
  Blob<Dtype> blobs[4];
  vector<Blob<Dtype>*> bottom;
  for (size_t i = 0; i < bottoms; ++i) {
    blobs[i].Reshape(vector<int>(i < 3 ? vector<int>{3, 19} : vector<int>{3}));
    for (int k = 0; k < blobs[i].count(); ++k) blobs[i].mutable_cpu_data()[k] = i < 3 ? std::sin(1 + k * (i + 2.)) : k;
    bottom.push_back(&blobs[i]);
  }
  vector<bool> wanted(bottoms, true);
  wanted[left_out] = false;
  caffe::LayerParameter param;
  Both<Dtype> layer(param);
  const vector<Dtype> cpu = layer.run(false, bottom, wanted), gpu = layer.run(true, bottom, wanted);
  for (size_t i = 0; i < cpu.size(); ++i) compare(cpu[i], gpu[i]);
}

int main() {
  for (size_t left_out = 0; left_out < 3; ++left_out) run<float>(3, left_out);
  run<double>(4, 3);
  return differing != 0;
}
"""
OUTSIDE, DIFFERENT = 99, 1
LAUNCH = re.compile(r"(\w+::\w+<Dtype>)\s*(?://.*\s*)?<<<(.*), (\w+)>>>\(")
PLANTS: Mapping[str, tuple[str, str]] = {
    "the loss is written beside the tops": (r"top\[0\](->mutable_cpu_data\(\)\[0\] = Reduce)", r"top[PLANTED]\1"),
    "a gradient of what has none": (r"i < 3(; \+\+i\) \{\s*gradients)", r"i < 3 + PLANTED\1"),
    "gradients of each other": (r"gradients\[1\], gradients\[2\]\)", "gradients[1 + PLANTED], gradients[2 - PLANTED])"),
    "unwanted lanes beyond the array": (r"unwanted\[2\](\);\s*\}\s*for)", r"unwanted[2 + PLANTED]\1"),
    "an unwanted number beyond the array": (r"unwanted\[2\](\);\s*\}\s*\}\s*\})", r"unwanted[2 + PLANTED]\1"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer with its GPU code and all planted errors, of which PLANTED says which is there; right without it."""
    caffe, folder = build.find(), tmp_path_factory.mktemp("host")
    assert caffe is not None
    product = generate(differentiate("l2", "softmax-mse"), "caffe")
    layer.write(product, folder)
    text = product.text("_layer.cpp") + LAUNCH.sub(r"launch(\2, \3, \1, ", product.text(".cu"))
    for number, (old, new) in enumerate(PLANTS.values(), start=1):
        text = re.sub(old, new.replace("PLANTED", f"(planted == {number})"), text)
    main = MAIN.replace("LAYER", f"{layer_type(product.objective)}Layer")
    (folder / "host.cpp").write_text(f"{DEVICE}{text}{main}", encoding="utf-8")
    checked = ("-w", "-D_GLIBCXX_ASSERTIONS", "-fsanitize=address")
    caffe.compile(*checked, "-I.", "host.cpp", "-o", "host", folder=folder)
    return folder / "host"


def run(program: Path, planted: int) -> int:
    caffe = build.find()
    assert caffe is not None
    environment = {**caffe.environment, "PLANTED": str(planted), "ASAN_OPTIONS": f"detect_leaks=0:exitcode={OUTSIDE}"}
    return subprocess.run([program], env=environment, capture_output=True, check=False, timeout=60).returncode


def test_both_devices_make_the_same_of_what_is_wanted_and_stay_in_their_arrays(program: Path) -> None:
    assert run(program, 0) == 0


@pytest.mark.parametrize("name", PLANTS)
def test_an_error_in_the_host_is_seen(program: Path, name: str) -> None:
    seen = run(program, 1 + list(PLANTS).index(name))
    assert seen == DIFFERENT if "each other" in name else seen in (OUTSIDE, -signal.SIGABRT)

// Runs a net on triplets, a part of them at a time, and writes what Caffe makes of them.
//
//     harness TYPE ROWS DIM NET [LIBRARY...]
//
// TYPE is float or double. NET is the text of a NetParameter with inputs x, x_pos and x_neg, whose first axis says how
// many rows are run at a time, and maybe weights, one for each. Each LIBRARY holds layers, and is loaded. Standard input:
// x, x_pos and x_neg, ROWS x DIM numbers each, and ROWS weights if the net takes them. Standard output: the loss of each
// part, then the gradients of x, x_pos and x_neg, as many numbers.
#include <dlfcn.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"

namespace {

template <typename Dtype>
void run(const caffe::NetParameter& param, size_t rows, size_t dim) {
  std::vector<Dtype> embeddings[3], gradients[3], losses;
  for (int i = 0; i < 3; ++i) {
    embeddings[i].resize(rows * dim);
    gradients[i].resize(rows * dim);
    CHECK_EQ(rows * dim, fread(embeddings[i].data(), sizeof(Dtype), rows * dim, stdin));
  }
  caffe::Net<Dtype> net(param);
  std::vector<Dtype> weights(net.has_blob("weights") ? rows : 0);
  CHECK_EQ(weights.size(), fread(weights.data(), sizeof(Dtype), weights.size(), stdin));
  const char* const names[] = {"x", "x_pos", "x_neg"};
  const size_t part = net.blob_by_name("x")->count();
  for (size_t at = 0; at < rows * dim; at += part) {
    for (int i = 0; i < 3; ++i) {
      caffe::Blob<Dtype>& blob = *net.blob_by_name(names[i]);
      CHECK_EQ(part, blob.count());
      std::copy_n(embeddings[i].data() + at, part, blob.mutable_cpu_data());
    }
    if (!weights.empty()) {
      caffe::Blob<Dtype>& blob = *net.blob_by_name("weights");
      std::copy_n(weights.data() + at / dim, blob.count(), blob.mutable_cpu_data());
    }
    losses.push_back(net.ForwardBackward());
    for (int i = 0; i < 3; ++i) {
      std::copy_n(net.blob_by_name(names[i])->cpu_diff(), part, gradients[i].data() + at);
    }
  }
  fwrite(losses.data(), sizeof(Dtype), losses.size(), stdout);
  for (int i = 0; i < 3; ++i) {
    fwrite(gradients[i].data(), sizeof(Dtype), rows * dim, stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  CHECK_GE(argc, 5);
  for (int i = 5; i < argc; ++i) {
    CHECK(dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL)) << dlerror();
  }
  caffe::NetParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(argv[4], &param)) << "not a NetParameter";
  const size_t rows = strtoull(argv[2], NULL, 10), dim = strtoull(argv[3], NULL, 10);
  if (std::string(argv[1]) == "double") {
    run<double>(param, rows, dim);
  } else {
    run<float>(param, rows, dim);
  }
}

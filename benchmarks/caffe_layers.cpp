// Measures nets of one loss beside each other, in real Caffe, on the CPU: what they hold in memory, and how long they take.
//
//     caffe_layers ROWS DIM SECONDS NET... [-- LIBRARY...]
//
// Each NET is a file with a NetParameter whose inputs are x, x_pos and x_neg; they are given the shape ROWS x DIM. Each
// LIBRARY holds layers, and is loaded. Standard output: JSON, for `caffe_layers.py` to read.
#include <cblas.h>
#include <dlfcn.h>
#include <google/protobuf/text_format.h>
#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"

namespace {

typedef std::chrono::steady_clock Clock;
typedef caffe::Net<float> Net;

const char* const kInputs[] = {"x", "x_pos", "x_neg"};
const size_t kLeastTurns = 15, kMostTurns = 4000;
const int kMostTries = 8;

// What Caffe itself says of a net's memory: the last of its messages counts all of the net.
class MemoryMessages : public google::LogSink {
 public:
  virtual void send(google::LogSeverity, const char*, const char*, int, const struct ::tm*, const char* message,
                    size_t length) {
    const std::string text(message, length), start = "Memory required for data: ";
    if (text.compare(0, start.size(), start) == 0) {
      said = strtoull(text.c_str() + start.size(), NULL, 10);
    }
  }
  size_t said = 0;
};

// In bytes.
struct Memory {
  size_t caffe;      // what Caffe logs: the data of all tops, the inputs' too; no gradients, shared data twice
  size_t blobs;      // data and gradients of the net's blobs, each array once, and only those that are allocated
  size_t inputs;     // those of the three inputs among them
  size_t allocated;  // all that malloc has handed out for the net
};

// Data and gradients of some blobs, each array once: the tops of a Split share their data with its bottom.
template <typename Blobs>
size_t bytes(const Blobs& blobs) {
  std::set<const caffe::SyncedMemory*> counted;
  size_t total = 0;
  for (const auto& blob : blobs) {
    for (const auto& memory : {blob->data(), blob->diff()}) {
      // Caffe allocates an array when it is first touched
      const bool allocated = memory->head() != caffe::SyncedMemory::UNINITIALIZED;
      if (allocated && counted.insert(memory.get()).second) total += memory->size();
    }
  }
  return total;
}

size_t handed_out() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

caffe::NetParameter read(const char* path) {
  std::ifstream file(path);
  CHECK(file) << path;
  std::stringstream text;
  text << file.rdbuf();
  caffe::NetParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(text.str(), &param)) << path << " is not a NetParameter";
  return param;
}

caffe::NetParameter shaped(caffe::NetParameter param, size_t rows, size_t dim) {
  for (int i = 0; i < param.layer_size(); ++i) {
    if (param.layer(i).type() != "Input") continue;
    caffe::BlobShape* shape = param.mutable_layer(i)->mutable_input_param()->mutable_shape(0);
    shape->clear_dim();
    shape->add_dim(rows);
    shape->add_dim(dim);
  }
  return param;
}

// Embeddings of about unit length.
std::vector<std::vector<float>> embeddings(size_t rows, size_t dim) {
  std::mt19937 random(0);
  std::vector<std::vector<float>> made(3, std::vector<float>(rows * dim));
  for (std::vector<float>& embedding : made) {
    for (float& component : embedding) {
      component = (random() / 2147483648.0 - 1) * std::sqrt(3.0 / dim);
    }
  }
  return made;
}

// The net after a forward and a backward pass, and what it then holds.
std::unique_ptr<Net> made(const caffe::NetParameter& unshaped, size_t rows, size_t dim,
                          const std::vector<std::vector<float>>& batch, Memory* memory) {
  MemoryMessages messages;
  const caffe::NetParameter param = shaped(unshaped, rows, dim);
  const size_t before = handed_out();
  google::AddLogSink(&messages);
  FLAGS_minloglevel = google::INFO;
  std::unique_ptr<Net> net(new Net(param));
  FLAGS_minloglevel = google::ERROR;
  google::RemoveLogSink(&messages);
  for (int i = 0; i < 3; ++i) {
    caffe::Blob<float>& blob = *net->blob_by_name(kInputs[i]);
    CHECK_EQ(batch[i].size(), static_cast<size_t>(blob.count())) << kInputs[i];
    std::copy(batch[i].begin(), batch[i].end(), blob.mutable_cpu_data());
  }
  net->ForwardBackward();
  memory->allocated = handed_out() - before;
  memory->caffe = messages.said;
  memory->blobs = bytes(net->blobs());
  memory->inputs = bytes(net->input_blobs());
  return net;
}

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Times {
  std::vector<double> forward, backward;
};

// How often the machine has taken the processor from this process, to run another.
long interruptions() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

// How long some work takes: the least of what was measured, up to a first time without interruption.
class Stopwatch {
 public:
  template <typename Work>
  void time(const Work& work) {
    const long before = interruptions();
    const Clock::time_point start = Clock::now();
    work();
    const double seconds = since(start);
    if (!done_) least_ = std::min(least_, seconds);
    done_ |= interruptions() == before;
  }
  bool done() const { return done_; }
  double least() const { return least_; }

 private:
  double least_ = INFINITY;
  bool done_ = false;
};

// Passes that fetch what the caches lost to the other nets, and passes that are timed.
void turn(Net* net, Times* times) {
  Stopwatch forward, backward;
  for (int tries = 0; tries < kMostTries && !(forward.done() && backward.done()); ++tries) {
    net->Forward();
    net->Backward();
    forward.time([&] { net->Forward(); });
    backward.time([&] { net->Backward(); });
  }
  times->forward.push_back(forward.least());
  times->backward.push_back(backward.least());
}

// The same for what no layer can do without: three arrays are read, and three are written.
double copied(const std::vector<std::vector<float>>& from, std::vector<std::vector<float>>* to) {
  const auto copy = [&] {
    for (size_t i = 0; i < from.size(); ++i) {
      memcpy((*to)[i].data(), from[i].data(), from[i].size() * sizeof(float));
      asm volatile("" : : "r"((*to)[i].data()) : "memory");  // it is not to be left out
    }
  };
  Stopwatch watch;
  for (int tries = 0; tries < kMostTries && !watch.done(); ++tries) {
    copy();
    watch.time(copy);
  }
  return watch.least();
}

double loss_of(const Net& net) { return net.output_blobs().back()->cpu_data()[0] * net.blob_loss_weights().back(); }

// The largest difference of two nets' gradients in x, x_pos and x_neg, over the largest gradient.
double difference(const Net& one, const Net& other) {
  double largest = 0, apart = 0;
  for (const char* name : kInputs) {
    const caffe::Blob<float>&a = *one.blob_by_name(name), &b = *other.blob_by_name(name);
    for (int i = 0; i < a.count(); ++i) {
      const double error = std::fabs(static_cast<double>(a.cpu_diff()[i]) - b.cpu_diff()[i]);
      if (!std::isfinite(error)) return error;
      apart = std::max(apart, error);
      largest = std::max<double>(largest, std::fabs(a.cpu_diff()[i]));
    }
  }
  return apart / largest;
}

// NaN and infinity are no JSON; nothing that is measured is as large as this.
std::string number(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.9g", std::isfinite(value) ? value : 1e300);
  return text;
}

std::string list(const std::vector<double>& values) {
  std::string text;
  for (double value : values) text += (text.empty() ? "" : ", ") + number(value);
  return "[" + text + "]";
}

void print(const char* name, const Memory& memory) {
  printf("   \"%s\": {\"caffe\": %zu, \"blobs\": %zu, \"inputs\": %zu, \"allocated\": %zu},\n", name, memory.caffe,
         memory.blobs, memory.inputs, memory.allocated);
}

// Where the BLAS is, and what OpenBLAS says of itself.
void print_blas() {
  Dl_info info;
  void* const function = dlsym(RTLD_DEFAULT, "cblas_sdot");
  CHECK(function && dladdr(function, &info));
  typedef char* (*Config)();
  typedef int (*Threads)();
  const Config config = reinterpret_cast<Config>(dlsym(RTLD_DEFAULT, "openblas_get_config"));
  const Threads threads = reinterpret_cast<Threads>(dlsym(RTLD_DEFAULT, "openblas_get_num_threads"));
  char* const path = realpath(info.dli_fname, NULL);
  printf(" \"blas\": {\"path\": \"%s\", \"config\": \"%s\", \"threads\": %d},\n", path ? path : info.dli_fname,
         config ? config() : "", threads ? threads() : 1);
  free(path);
}

}  // namespace

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  for (int level = 0; level < google::NUM_SEVERITIES; ++level) google::SetLogDestination(level, "");  // no files
  FLAGS_stderrthreshold = google::ERROR;
  FLAGS_minloglevel = google::ERROR;
  CHECK_GE(argc, 5);
  const size_t rows = strtoull(argv[1], NULL, 10), dim = strtoull(argv[2], NULL, 10);
  const double seconds = strtod(argv[3], NULL);
  // large blocks are then counted to the byte, not to the page; but where arrays are in memory shows in times
  if (seconds == 0) mallopt(M_MMAP_MAX, 0);
  char** const end = argv + argc;
  char** const dashes = std::find(argv + 4, end, std::string("--"));
  for (char** library = dashes; library < end; ++library) {
    if (library != dashes) CHECK(dlopen(*library, RTLD_NOW | RTLD_GLOBAL)) << dlerror();
  }
  const std::vector<std::vector<float>> batch = embeddings(rows, dim), least = embeddings(1, 1);
  std::vector<std::unique_ptr<Net>> nets;
  std::vector<Memory> memory, smallest;
  for (char** path = argv + 4; path < dashes; ++path) {
    const caffe::NetParameter param = read(*path);
    smallest.emplace_back();
    made(param, 1, 1, least, &smallest.back());  // what is allocated once per process
    made(param, 1, 1, least, &smallest.back());
    memory.emplace_back();
    nets.push_back(made(param, rows, dim, batch, &memory.back()));
  }
  std::vector<std::vector<float>> copies = batch;
  std::vector<Times> times(nets.size());
  std::vector<double> copying;
  const Clock::time_point start = Clock::now();
  // forwards and backwards in turn, so that no net always comes after the same one
  for (size_t n = 0; seconds > 0 && n < kMostTurns && (n < kLeastTurns || since(start) < seconds); ++n) {
    for (size_t i = 0; i < nets.size(); ++i) {
      const size_t which = n % 2 ? nets.size() - 1 - i : i;
      turn(nets[which].get(), &times[which]);
    }
    copying.push_back(copied(batch, &copies));
  }
  printf("{\n");
  print_blas();
  printf(" \"copy\": %s,\n \"nets\": [\n", list(copying).c_str());
  for (size_t i = 0; i < nets.size(); ++i) {
    printf("  {\n");
    print("memory", memory[i]);
    print("least", smallest[i]);
    printf("   \"loss\": %s,\n   \"difference\": %s,\n", number(loss_of(*nets[i])).c_str(),
           number(difference(*nets[0], *nets[i])).c_str());
    printf("   \"forward\": %s,\n   \"backward\": %s\n  }%s\n", list(times[i].forward).c_str(),
           list(times[i].backward).c_str(), i + 1 < nets.size() ? "," : "");
  }
  printf(" ]\n}\n");
}

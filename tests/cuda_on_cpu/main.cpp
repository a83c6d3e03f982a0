// Runs the calls that come on standard input, one after another, and answers on standard output. A call is a line
// `call NAME SEED COUNT` and COUNT arguments, each a line: `i INTEGER`, `f REAL`, `n` for null, `o BYTES OFFSET` for a
// result, or `t BYTES OFFSET` followed by the bytes. The answer is `done STATUS RESULTS` and for each result a line
// with its number of bytes, then the bytes. `plan` in place of `call` runs nothing, brings and gets no bytes of
// tensors, and answers `done STATUS LAUNCHES` and a line for each launch: blocks, threads, bytes of shared memory,
// kernel.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "calls.h"
#include "device_on_cpu.h"
#include "fibres.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(start, size) __asan_poison_memory_region(start, size)
#define UNPOISON(start, size) __asan_unpoison_memory_region(start, size)
#else
#define POISON(start, size) (void)(start)
#define UNPOISON(start, size) (void)(start)
#endif

namespace lightsr::on_cpu {
namespace {

constexpr size_t guard = 4096;
constexpr unsigned char guard_byte = 0xa5;

std::map<std::string, std::function<int(Call&)>>& entries() {
  static std::map<std::string, std::function<int(Call&)>> all;
  return all;
}

[[noreturn]] void broken() {
  std::fprintf(stderr, "cuda-on-cpu: a call that cannot be read\n");
  std::exit(64);
}

std::string read_line() {
  std::string line;
  for (int next; (next = std::getchar()) != EOF && next != '\n';) line.push_back(static_cast<char>(next));
  return line;
}

}  // namespace

Entry::Entry(const char* name, std::function<int(Call&)> run) {
  entries()[name] = std::move(run);
}

Tensor::Tensor(size_t bytes, size_t offset) : size_(bytes), whole_(2 * guard + 256 + bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, whole_) != 0) fail("no memory for a tensor of %zu bytes", bytes);
  memory_ = static_cast<unsigned char*>(memory);
  data_ = memory_ + guard + offset % 256;
  std::memset(memory_, guard_byte, whole_);
  std::memset(data_, 0xff, bytes);
  POISON(memory_, data_ - memory_);
  POISON(data_ + bytes, whole_ - bytes - static_cast<size_t>(data_ - memory_));
}

Tensor::~Tensor() {
  UNPOISON(memory_, whole_);
  std::free(memory_);
}

void Tensor::check_guards(int number) const {
  UNPOISON(memory_, whole_);
  for (size_t i = 0; i < whole_; ++i) {
    const bool inside = memory_ + i >= data_ && memory_ + i < data_ + size_;
    if (!inside && memory_[i] != guard_byte) {
      fail("argument %d: byte %td was written, of %zu", number, memory_ + i - data_, size_);
    }
  }
}

bool Call::read() {
  const std::string line = read_line();
  if (line.empty()) return false;
  char verb[8], word[64];
  unsigned long long seed;
  int count;
  if (std::sscanf(line.c_str(), "%7s %63s %llu %d", verb, word, &seed, &count) != 4) broken();
  planned = std::strcmp(verb, "plan") == 0;
  name = word;
  set_seed(seed);
  for (int i = 0; i < count; ++i) {
    const std::string text = read_line();
    if (text.empty()) broken();
    Argument argument{text[0], 0, 0, nullptr, {}};
    unsigned long long bytes = 0, offset = 0;
    if (argument.kind == 'i') argument.integer = std::strtoll(text.c_str() + 1, nullptr, 10);
    if (argument.kind == 'f') argument.real = std::strtod(text.c_str() + 1, nullptr);
    if (argument.kind == 't' || argument.kind == 'o') {
      if (std::sscanf(text.c_str() + 1, "%llu %llu", &bytes, &offset) != 2) broken();
      argument.tensor = &tensors_.emplace_back(planned ? 0 : bytes, offset);
      if (argument.kind == 't' && !planned) {
        if (std::fread(argument.tensor->data(), 1, bytes, stdin) != bytes) broken();
        argument.before.assign(argument.tensor->data(), argument.tensor->data() + bytes);
      }
    }
    arguments_.push_back(std::move(argument));
  }
  return true;
}

Call::Argument& Call::take(char kind) {
  if (taken_ == arguments_.size() || (kind != 0 && arguments_[taken_].kind != kind)) broken();
  return arguments_[taken_++];
}

int64_t Call::integer() {
  return take('i').integer;
}
double Call::real() {
  return take('f').real;
}

void* Call::tensor() {
  Argument& argument = take(0);
  return argument.tensor != nullptr ? argument.tensor->data() : nullptr;
}

void* Call::scratch(int64_t bytes) {
  return bytes > 0 && !planned ? tensors_.emplace_back(static_cast<size_t>(bytes), 0).data() : nullptr;
}

void Call::answer(int status) {
  int number = 0;
  for (const Tensor& each : tensors_) each.check_guards(number++);
  int results = 0;
  for (const Argument& each : arguments_) {
    results += each.kind == 'o';
    if (each.kind == 't' && std::memcmp(each.before.data(), each.tensor->data(), each.tensor->size()) != 0) {
      fail("an input was written");
    }
  }
  std::printf("done %d %d\n", status, results);
  for (const Argument& each : arguments_) {
    if (each.kind != 'o') continue;
    std::printf("%zu\n", each.tensor->size());
    std::fwrite(each.tensor->data(), 1, each.tensor->size(), stdout);
  }
  std::fflush(stdout);
}

void Call::answer_plan(int status, const std::string& launches) const {
  std::printf("done %d %td\n%s", status, std::count(launches.begin(), launches.end(), '\n'), launches.c_str());
  std::fflush(stdout);
}

}  // namespace lightsr::on_cpu

int main() {
  using namespace lightsr::on_cpu;
  for (;;) {
    Call call;
    if (!call.read()) return 0;
    const auto entry = entries().find(call.name);
    if (entry == entries().end()) {
      std::fprintf(stderr, "cuda-on-cpu: no entry %s\n", call.name.c_str());
      return 64;
    }
    std::string launches;
    only_note(call.planned ? &launches : nullptr);
    const int status = entry->second(call);
    if (call.planned) {
      call.answer_plan(status, launches);
    } else {
      call.answer(status);
    }
  }
}

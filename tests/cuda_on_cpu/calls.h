// What an entry reads its arguments from: numbers, and tensors that lie between guard bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace lightsr::on_cpu {

// Memory of just so many bytes, at an address of `offset` more than a multiple of 256, poisoned on both sides.
class Tensor {
 public:
  Tensor(size_t bytes, size_t offset);
  ~Tensor();
  Tensor(const Tensor&) = delete;
  unsigned char* data() const { return data_; }
  size_t size() const { return size_; }
  // Fails if a byte outside was written.
  void check_guards(int number) const;

 private:
  unsigned char *memory_, *data_;
  size_t size_, whole_;
};

class Call {
 public:
  // From standard input; false at its end.
  bool read();
  void answer(int status);
  std::string name;
  bool planned = false;  // to note the launches down, not to run them
  void answer_plan(int status, const std::string& launches) const;

  int64_t integer();
  double real();
  // A tensor with its contents, one of NaN to be written and sent back, or null: as the caller chose.
  void* tensor();
  // Memory of NaN that is not sent back; its size is the entry's choice. Null for no bytes.
  void* scratch(int64_t bytes);

 private:
  struct Argument {
    char kind;
    int64_t integer;
    double real;
    Tensor* tensor;
    std::vector<unsigned char> before;
  };
  Argument& take(char kind);
  std::vector<Argument> arguments_;
  std::deque<Tensor> tensors_;
  size_t taken_ = 0;
};

// Makes a function callable by name: `static Entry entry{"name", [](Call& call) { ...; return status; }};`
struct Entry {
  Entry(const char* name, std::function<int(Call&)> run);
};

}  // namespace lightsr::on_cpu

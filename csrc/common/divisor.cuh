// Division by a number that the launch knows: a multiplication and a shift in place of some thirty instructions.
#pragma once

#include "device.cuh"

namespace lightsr {

class Divisor {
 public:
  Divisor() = default;

  explicit Divisor(int64_t by) : by_(by) {
    while (by_ > int64_t{1} << shift_) ++shift_;
    // For by < 2^31 and n < 2^31 the rounding up of the multiplier never reaches the quotient's next whole number.
    if (shift_ < 32) multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + shift_)) + by_ - 1) / by_);
  }

  __host__ __device__ int64_t by() const { return by_; }

  // n / by and the rest, n not negative.
  __host__ __device__ int64_t split(int64_t n, int64_t& rest) const {
    int64_t quotient;
    if ((n | by_) >> 31 == 0) {
      quotient = (static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier_) >> (31 + shift_);
    } else {
      quotient = n / by_;
    }
    rest = n - quotient * by_;
    return quotient;
  }

  // The same for n and by below 2^31.
  __host__ __device__ int split(int n, int& rest) const {
    const auto product = static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier_;
    const int quotient = static_cast<int>(product >> (31 + shift_));
    rest = n - quotient * static_cast<int>(by_);
    return quotient;
  }

 private:
  int64_t by_ = 1;
  uint32_t multiplier_ = 1u << 31;
  int shift_ = 0;
};

}  // namespace lightsr

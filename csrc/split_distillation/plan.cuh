// How split_distillation's kernels cut a call into blocks, and where a block keeps what: worked out on the host.
#pragma once

#include <initializer_list>

#include "../common/block_tile.cuh"
#include "../common/launch.cuh"
#include "../common/product.cuh"
#include "arguments.h"

namespace lightsr::distillation {

constexpr int threads = 256;
constexpr int64_t shared_limit = 160 * 1024;  // what an sm_80 gives a block, less a little
constexpr int64_t shared_of_two = 80 * 1024;  // lets it hold two blocks

// Where a tile or a matrix lies in shared memory, in numbers; or, in global memory, its pitch alone.
struct Place {
  int at, pitch;
};

struct SplitPlan {
  int pixels;                          // a block's, of one picture
  int split_padded, distilled_padded;  // channels up to whole units
  bool weight, gate;                   // which products there are
  Place weight_at, gate_at;
  Place h, d, result;              // forward; result: what is stored at the end
  Place pre, before, grad, logit;  // backward, besides h and d: see backward.cuh
  int bytes, distilled_bytes;      // a run's, of x and all that has its channels, and of the first result
  int weight_bytes, gate_bytes;
  unsigned tiles, blocks;  // tiles of one picture
  size_t shared_bytes;     // of no meaning where blocks is 0: it does not fit
  // Backward: the sums over pixels, in a part's order, -1: not wanted; a part is what one block adds up.
  int64_t weight_sums, weight_bias_sums, gate_sums, gate_bias_sums, bias_sums, part_size;
  int sums_at;  // in numbers of the sums' type, -1: in the workspace
};

// Units that need no whole units, where operands may lie anywhere.
template <class Units>
__host__ __device__ constexpr bool is_plain() {
  return Units::step == 1;
}

template <class Units>
__host__ __device__ constexpr int padded(int64_t channels) {
  return round_up(static_cast<int>(channels), larger(larger(Units::rows, Units::columns), Units::step));
}

// Hands out shared memory.
template <class T, class Units>
class Room {
 public:
  Room(bool last, int pixels) : last_(last), pixels_(pixels) {}

  // A tile of so many channels, whole units of them.
  Place tile(int channels) { return last_ ? matrix(pixels_, channels) : matrix(channels, pixels_); }
  // In global memory where Units can read it there.
  Place weights(int rows, int columns) {
    if (is_plain<Units>()) return {0, columns};
    return matrix(rows, columns);
  }
  int64_t numbers() const { return used_; }
  int64_t bytes() const { return used_ * int64_t(sizeof(T)); }

 private:
  Place matrix(int rows, int columns) {
    const Place place{static_cast<int>(used_), is_plain<Units>() ? columns : odd_row<T>(columns)};
    used_ = round_up<int64_t>(used_ + int64_t(rows) * place.pitch, 16 / sizeof(T));
    return place;
  }
  bool last_;
  int pixels_;
  int64_t used_ = 0;
};

template <class T, class Units>
SplitPlan common_plan(const SplitDistillation& call) {
  SplitPlan plan{};
  plan.weight = call.weight != nullptr;
  plan.gate = call.gate_weight != nullptr;
  plan.split_padded = padded<Units>(call.split);
  plan.distilled_padded = padded<Units>(call.distilled);
  plan.weight_bytes = Alignment(sizeof(T)).pointer(call.weight).step(call.split).bytes();
  plan.gate_bytes = Alignment(sizeof(T)).pointer(call.gate_weight).step(call.distilled).bytes();
  plan.sums_at = -1;
  return plan;
}

// Channels of a run are all distilled or all remain.
template <class T>
Alignment split_alignment(const SplitDistillation& call) {
  Alignment all(sizeof(T));
  for (const Slice* each : {&call.x, &call.residual}) {
    if (each->data != nullptr) all.pointer(each->data).step(each->picture).step(each->step);
  }
  if (call.channels_last) return all.step(call.split).step(call.c - call.split);
  return all.step(call.pixels);
}

template <class T>
int first_result_bytes(const SplitDistillation& call, const void* at) {
  return Alignment(sizeof(T)).pointer(at).step(call.channels_last ? call.distilled : call.pixels).bytes();
}

inline bool cut(const SplitDistillation& call, int pixels, SplitPlan& plan) {
  const int64_t tiles = ceil_div<int64_t>(call.pixels, pixels);
  if (double(call.n) * double(tiles) >= 2147483648.0) return false;
  plan.pixels = pixels;
  plan.tiles = static_cast<unsigned>(tiles);
  plan.blocks = static_cast<unsigned>(call.n * tiles);
  return true;
}

template <class T, class Units>
SplitPlan forward_plan(const SplitDistillation& call) {
  SplitPlan plan = common_plan<T, Units>(call);
  plan.bytes = split_alignment<T>(call).pointer(call.remaining).bytes();
  const bool products = plan.weight || plan.gate;
  if (!products) plan.bytes = smaller(plan.bytes, first_result_bytes<T>(call, call.distilled_out));
  plan.distilled_bytes = first_result_bytes<T>(call, call.distilled_out);
  constexpr bool plain = is_plain<Units>();
  if (plain) plan.bytes = plan.distilled_bytes = sizeof(T);
  const int most = plain ? 8 : 128, least = plain ? 1 : sizeof(T) == 2 ? 32 : 16;
  for (int pixels = most; pixels >= least; pixels /= 2) {
    SplitPlan tried = plan;
    Room<T, Units> room(call.channels_last, pixels);
    if (products) {
      const bool both = plan.weight && plan.gate;
      tried.h = room.tile(both ? larger(plan.split_padded, plan.distilled_padded) : plan.split_padded);
      tried.d = plan.weight ? room.tile(plan.distilled_padded) : tried.h;
      tried.result = both ? tried.h : plan.gate ? room.tile(plan.distilled_padded) : tried.d;
      if (plan.weight) tried.weight_at = room.weights(plan.distilled_padded, plan.split_padded);
      if (plan.gate) tried.gate_at = room.weights(plan.distilled_padded, plan.distilled_padded);
    }
    const bool last_try = pixels == least;
    tried.shared_bytes = static_cast<size_t>(room.bytes());
    if (room.bytes() > shared_limit || !cut(call, pixels, tried)) continue;
    plan = tried;
    // Room for two on a multiprocessor, and enough of them for the device, where that is to be had.
    if (last_try || plain || (room.bytes() <= shared_of_two && plan.blocks >= 2u * unsigned(multiprocessors()))) break;
  }
  return plan;
}

// One block adds up a run of tiles. Of shapes, and of what is wanted, alone: the runs decide the order of the sums.
template <class T, class Units>
SplitPlan backward_plan(const SplitDistillationBackward& all) {
  const SplitDistillation& call = all.call;
  constexpr int64_t most_parts = 264, most_workspace = 64 << 20;
  constexpr bool plain = is_plain<Units>();
  SplitPlan plan = common_plan<T, Units>(call);
  plan.bytes =
      split_alignment<T>(call).pointer(all.grad_remaining).pointer(all.grad_x).pointer(all.grad_residual).bytes();
  plan.distilled_bytes = first_result_bytes<T>(call, all.grad_distilled);
  if (plain) plan.bytes = plan.distilled_bytes = sizeof(T);
  const auto sums = [&](const void* wanted, int64_t numbers) {
    if (wanted == nullptr) return int64_t{-1};
    plan.part_size += numbers;
    return plan.part_size - numbers;
  };
  plan.weight_sums = sums(all.grad_weight, call.distilled * call.split);
  plan.weight_bias_sums = sums(all.grad_weight_bias, call.distilled);
  plan.gate_sums = sums(all.grad_gate_weight, call.distilled * call.distilled);
  plan.gate_bias_sums = sums(all.grad_gate_bias, call.distilled);
  plan.bias_sums = sums(all.grad_bias, call.c);
  const int most = plain ? 8 : 64, least = plain ? 1 : sizeof(T) == 2 ? 32 : 16;
  for (int pixels = most; pixels >= least; pixels /= 2) {
    SplitPlan tried = plan;
    Room<T, Units> room(call.channels_last, pixels);
    tried.pre = room.tile(static_cast<int>(call.c));
    tried.h = tried.d = tried.before = room.tile(plan.split_padded);
    tried.grad = room.tile(plan.distilled_padded);
    if (plan.weight) {
      tried.before = room.tile(plan.distilled_padded);
      tried.d = plan.gate ? room.tile(plan.distilled_padded) : tried.before;
      tried.weight_at = room.weights(plan.distilled_padded, plan.split_padded);
    }
    if (plan.gate) {
      tried.logit = room.tile(plan.distilled_padded);
      tried.gate_at = room.weights(plan.distilled_padded, plan.distilled_padded);
    }
    tried.shared_bytes = static_cast<size_t>(room.bytes());
    if (room.bytes() > shared_limit || !cut(call, pixels, tried)) continue;
    const int64_t sums_bytes = plan.part_size * int64_t(sizeof(Sum<T>));
    if (room.bytes() + sums_bytes <= shared_limit) {
      tried.sums_at = static_cast<int>(room.bytes() / int64_t(sizeof(Sum<T>)));
      tried.shared_bytes += static_cast<size_t>(sums_bytes);
    }
    plan = tried;
    if (plain || room.bytes() + sums_bytes <= shared_of_two) break;
  }
  if (plan.blocks == 0) return plan;
  const int64_t part_bytes = larger<int64_t>(plan.part_size * int64_t(sizeof(Sum<T>)), 1), all_tiles = plan.blocks;
  const int64_t most_blocks = larger<int64_t>(1, smaller(most_parts, most_workspace / part_bytes));
  plan.blocks = static_cast<unsigned>(ceil_div(all_tiles, ceil_div(all_tiles, most_blocks)));
  return plan;
}

}  // namespace lightsr::distillation

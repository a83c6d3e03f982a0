// How the direct gradient of the weights is cut into blocks and threads: worked out on the host, read on the device.
#pragma once

#include "direct_plan.h"

namespace lightsr {

// A thread's share of the taps: `rows` x `columns` of them, `skip` as in direct_plan.h.
template <int row_taps, int column_taps, int first>
struct WeightShape {
  static constexpr int rows = row_taps, columns = column_taps, skip = first;
  static constexpr int window = round_up(skip + direct_columns + columns - 1, 4);
  static constexpr int ring_numbers = rows * (columns + direct_columns) + window;
  static constexpr bool ring = ring_numbers <= 100;
  // Blocks on a multiprocessor that the compiler leaves registers for.
  __host__ __device__ static constexpr int blocks(size_t size) {
    return size > 4 || (ring && ring_numbers > 70) ? 1 : 2;
  }
};

// A block takes `slots` channels and one of `parts` runs of tiles; in each slot, strips x phases x groups threads share
// out a tile's pixels for each of tap_rows x tap_columns shares of the taps.
struct WeightPlan {
  Lattice lattice;
  TileShape x, grad;
  bool fours;
  int slots, strips, strip_rows, groups;
  int tap_rows, tap_columns;
  int margin;
  int x_pitch, grad_pitch;  // from a slot to the next
  unsigned slot_blocks, parts, threads;
  int64_t tiles;      // of all pictures and row phases together
  int64_t part_size;  // numbers a part has in the workspace: the taps of all channels, then a bias each
  size_t shared_bytes;
  Divisor by_column_tiles, by_phase_blocks, by_row_tiles, by_row_phases, by_slots;
};

template <class T, class Shape>
WeightPlan weight_plan(const DepthwiseConvWeight& call) {
  constexpr size_t shared_limit = 99 * 1024;  // what an sm_86 gives a block
  constexpr int64_t enough_blocks = 4096;
  constexpr int size = static_cast<int>(sizeof(Sum<T>)), most_threads = 256;
  const bool last = call.channels_last;
  WeightPlan plan{};
  plan.lattice = lattice_of(call.c, call.h, call.w, call.dh, call.dw, last);
  const int64_t dh = plan.lattice.dh, dw = plan.lattice.dw;
  const int64_t rows = ceil_div(call.h, dh), columns = ceil_div(call.w, dw);

  plan.tap_rows = ceil_div(call.kh, Shape::rows);
  plan.tap_columns = ceil_div(call.kw, Shape::columns);
  plan.margin = round_up(call.kw / 2, 4);
  const int shares = plan.tap_rows * plan.tap_columns;
  const int most_slots = shares == 1 ? 32 / size : shares <= 3 ? 16 / size : 8 / size;
  plan.slots = 1;
  while (last && plan.slots < most_slots && plan.slots < call.c) plan.slots *= 2;
  int most_groups = plan.slots > 2 || 16 * shares > most_threads ? 4 : 8;
  int most_rows = plan.slots > 4 ? 25 : shares == 1 ? 80 : shares < 6 ? 49 : 31;
  for (;;) {
    const int phases = static_cast<int>(smaller<int64_t>(dw, most_groups));
    const int64_t most = larger(1, (most_groups + phases / 2) / phases);
    plan.groups = static_cast<int>(ceil_div(columns, ceil_div(columns, 8 * most) * 8));
    const int across = phases * plan.groups;
    // Strips of an odd number of rows, for the banks' sake: see direct_plan.h.
    const int64_t band = ceil_div(rows, ceil_div<int64_t>(rows, most_rows));
    const int most_strips = larger(2, 160 / plan.slots / (across * shares));
    plan.strip_rows =
        static_cast<int>(larger<int64_t>(smaller<int64_t>(5, band), ceil_div<int64_t>(band, most_strips))) | 1;
    plan.strips = static_cast<int>(ceil_div<int64_t>(band, plan.strip_rows));
    const int lanes = across * plan.strips * shares;
    plan.grad = {plan.strips * plan.strip_rows, 8 * plan.groups, phases, 8 * plan.groups, phases * 8 * plan.groups};
    plan.x.rows = plan.grad.rows + plan.tap_rows * Shape::rows - 1;
    plan.x.columns = 8 * (plan.groups - 1) + Shape::columns * (plan.tap_columns - 1) + Shape::window;
    plan.x.phases = phases;
    plan.x.phase_pitch = plan.x.columns;
    plan.x.pitch = phases * plan.x.phase_pitch;
    plan.x.pitch += plan.x.pitch % 8 == 0 ? 4 : 0;
    plan.grad.pitch += plan.grad.pitch % 8 == 0 ? 4 : 0;
    plan.x_pitch = plan.x.rows * plan.x.pitch;
    plan.grad_pitch = plan.grad.rows * plan.grad.pitch;
    if (plan.slots > 1) {
      plan.x_pitch = round_up(plan.x_pitch - 4, 32) + 4;
      plan.grad_pitch = round_up(plan.grad_pitch - 4, 32) + 4;
    }
    plan.threads = static_cast<unsigned>(round_up(plan.slots * lanes, 32));
    const int tiles = plan.slots * (plan.x_pitch + plan.grad_pitch);
    const int results = plan.slots * lanes * (Shape::rows * Shape::columns + 1);
    plan.shared_bytes = static_cast<size_t>(size) * static_cast<size_t>(larger(tiles, results));
    if (plan.threads <= most_threads && plan.shared_bytes <= shared_limit) break;
    if (plan.slots > 1) {
      plan.slots /= 2;
    } else if (plan.shared_bytes > shared_limit && most_rows > 8) {
      most_rows /= 2;
    } else if (most_groups > 1) {
      most_groups /= 2;
    } else {
      most_rows /= 2;
    }
  }
  plan.slot_blocks = static_cast<unsigned>(ceil_div<int64_t>(call.c, plan.slots));
  const int64_t row_tiles = ceil_div<int64_t>(rows, plan.grad.rows);
  const int64_t column_tiles = ceil_div<int64_t>(columns, plan.grad.columns);
  const int64_t phase_blocks = ceil_div<int64_t>(dw, plan.grad.phases);
  plan.tiles = call.n * dh * row_tiles * column_tiles * phase_blocks;
  plan.by_column_tiles = Divisor(column_tiles);
  plan.by_phase_blocks = Divisor(phase_blocks);
  plan.by_row_tiles = Divisor(row_tiles);
  plan.by_row_phases = Divisor(dh);
  plan.by_slots = Divisor(last ? plan.slots : 1);
  // The same on every device: the parts decide the order of the sums.
  const int64_t most_parts = ceil_div<int64_t>(enough_blocks, plan.slot_blocks);
  plan.parts = static_cast<unsigned>(ceil_div(plan.tiles, ceil_div(plan.tiles, most_parts)));
  plan.part_size = call.c * (call.kh * call.kw + 1);
  plan.fours = !last && dw == 1 && call.w % 4 == 0 && aligned_by_fours<T>(call.x) && aligned_by_fours<T>(call.grad);
  return plan;
}

}  // namespace lightsr

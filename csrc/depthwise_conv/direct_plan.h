// How a direct convolution is cut into blocks and threads: worked out on the host, read on the device.
#pragma once

#include <cstdint>

#include "../common/divisor.cuh"
#include "arguments.h"
#include "tile.cuh"

namespace lightsr {

constexpr int direct_rows = 5;     // output rows a thread
constexpr int direct_columns = 8;  // output columns a thread

// A block takes `slots` planes: neighbouring channels in channels_last, else neighbouring planes, or neighbouring row
// phases of one. Each slot has its own threads: thread_rows x (phases x groups).
struct DirectPlan {
  Lattice lattice;
  TileShape tile;            // of the input, halo included
  bool fours_in, fours_out;  // by four pixels, where they lie side by side
  bool from_registers;       // results go out at once, where that is by fours and nothing but a bias is to be added
  int slots, thread_rows, groups;
  int margin;  // columns of the tile before the first output's, a multiple of 4 of kw / 2 and more
  int chunks;  // whole groups of 8 taps in a filter's row
  int plane_pitch, weight_pitch, weight_rows;
  unsigned slot_blocks, blocks, threads;
  size_t shared_bytes;
  // A block's number is ((slot_block * row_tiles + row_tile) * phase_blocks + phase_block) * column_tiles +
  // column_tile, or in channels_last, of which the channels of a pixel come first, with the slot_block last.
  Divisor by_slot_blocks, by_column_tiles, by_phase_blocks, by_row_tiles;
  Divisor by_slots, by_lanes, by_across, by_groups;  // a thread's number
  Divisor by_row_phases, by_channels;                // a slot's: channels blocks of channels in channels_last
};

// A tap row is `chunks` times 8 taps and a tail of 1, 3, 5 or 7. The first tap of a thread's first output lies this
// many columns after a multiple of 4 in the tile, since the tile begins at one.
__host__ __device__ constexpr int direct_skip(int tail) {
  return (4 - (tail - 1) / 2 % 4) % 4;
}

// The kernel for a filter `kw` wide: 0 or 1 where it knows that many groups of 8 taps, -1 where it takes any number.
template <class T>
constexpr int direct_variant(int kw) {
  // The 16-bit types have faster kernels elsewhere, and double's units are slower than loads.
  return sizeof(T) == 4 && kw < 16 ? kw / 8 : -1;
}

// Numbers from a row of the filter to the next in shared memory, known when the kernel is compiled.
__host__ __device__ constexpr int direct_weight_pitch(int variant, int tail) {
  return variant < 0 ? 32 : 8 * variant + round_up(tail, 4);
}

// Columns that a thread reads for a run of taps.
__host__ __device__ constexpr int direct_window(int taps, int tail) {
  return round_up(direct_skip(tail) + direct_columns + taps - 1, 4);
}

// Rows of threads, at most `most`, that cut `rows` with the least work: full warps against a smaller halo.
inline int direct_thread_rows(int64_t rows, int64_t most, int across, const DirectPlan& plan, int taps) {
  const int64_t tiles = ceil_div(rows, most);
  int64_t best = 0, least = 0;
  for (int64_t each = tiles; each < tiles + 4; ++each) {
    const int64_t high = ceil_div(rows, each);
    const int64_t threads = round_up<int64_t>(plan.slots * across * high, 32);
    const int64_t loaded = (direct_rows * high + plan.weight_rows - 1) * plan.tile.pitch * plan.slots;
    // Instructions: an FMA each and a tenth more, some hundred to begin and to end with, a few for each number loaded.
    const int64_t work = ceil_div(rows, high) * (threads * (44 * taps + 300) + 4 * loaded);
    if (best == 0 || work < least) best = high, least = work;
  }
  return static_cast<int>(best);
}

// One channel or one pixel a picture is the same memory in both layouts, and planes side by side fill a block better.
template <class Call>
Call direct_layout(Call call) {
  if (call.c == 1 || (call.h == 1 && call.w == 1)) call.channels_last = false;
  return call;
}

template <class T>
DirectPlan direct_plan(const DepthwiseConv& call) {
  constexpr size_t shared_limit = 99 * 1024;  // what an sm_86 gives a block
  constexpr int size = static_cast<int>(sizeof(Sum<T>));
  const bool last = call.channels_last;
  DirectPlan plan{};
  plan.lattice = lattice_of(call.c, call.h, call.w, call.dh, call.dw, last);
  const int64_t dh = plan.lattice.dh, dw = plan.lattice.dw;
  const int64_t rows = ceil_div(call.h, dh), columns = ceil_div(call.w, dw);  // of a phase

  // A pixel's channels are read by the 32 bytes; large filters have time for less, and need tiles that are not all
  // halo.
  const int most_slots = call.kh * call.kw > 200 ? 2 : 32 / size;
  plan.slots = 1;
  while (last && plan.slots < most_slots && plan.slots < call.c) plan.slots *= 2;
  const int most_groups = plan.slots > 2 ? 4 : 8;
  int most_threads = plan.slots > 2 ? 32 : 128;  // of a slot
  plan.tile.phases = static_cast<int>(smaller<int64_t>(dw, most_groups));
  const int64_t most = larger(1, (most_groups + plan.tile.phases / 2) / plan.tile.phases);
  plan.groups = static_cast<int>(ceil_div(columns, ceil_div(columns, 8 * most) * 8));
  const int across = plan.tile.phases * plan.groups;
  const int64_t thread_rows = ceil_div<int64_t>(rows, direct_rows);

  const int tail = call.kw % 8;
  plan.chunks = call.kw / 8;
  plan.margin = round_up(call.kw / 2, 4);
  plan.weight_pitch = direct_weight_pitch(direct_variant<T>(call.kw), tail);
  plan.weight_rows = call.kh;
  plan.tile.columns = 8 * (plan.groups - 1) + 8 * plan.chunks + direct_window(tail, tail);
  plan.tile.phase_pitch = plan.tile.columns;
  // An odd number of 16 bytes to a row: two threads direct_rows rows apart, an odd number too, read different banks.
  plan.tile.pitch = plan.tile.phases * plan.tile.phase_pitch;
  plan.tile.pitch += plan.tile.pitch % 8 == 0 ? 4 : 0;
  for (;; most_threads /= 2) {
    plan.thread_rows =
        direct_thread_rows(thread_rows, larger(1, most_threads / across), across, plan, call.kh * call.kw);
    plan.tile.rows = direct_rows * plan.thread_rows + call.kh - 1;
    plan.plane_pitch = plan.tile.rows * plan.tile.pitch;
    if (plan.slots > 1) plan.plane_pitch = round_up(plan.plane_pitch - 4, 32) + 4;  // channels in different banks
    plan.shared_bytes = size * static_cast<size_t>(plan.slots) *
                        static_cast<size_t>(plan.plane_pitch + plan.weight_rows * plan.weight_pitch);
    if (plan.shared_bytes <= shared_limit) break;
    if (plan.slots > 1) plan.slots /= 2, most_threads *= 2;
  }
  const int64_t planes = last ? call.c : call.n * call.c * dh;
  if (!last) plan.slots = static_cast<int>(smaller<int64_t>(planes, larger(1, 128 / (across * plan.thread_rows))));
  if (!last && plan.slots > 1) {
    plan.slots = larger(1, smaller<int>(plan.slots, static_cast<int>(shared_limit / 2 / plan.shared_bytes)));
    plan.shared_bytes *= static_cast<size_t>(plan.slots);
  }
  const int64_t slot_blocks = ceil_div<int64_t>(planes, plan.slots) * (last ? call.n * dh : 1);
  const int64_t row_tiles = ceil_div<int64_t>(thread_rows, plan.thread_rows);
  const int64_t column_tiles = ceil_div<int64_t>(columns, 8 * plan.groups);
  const int64_t phase_blocks = ceil_div<int64_t>(dw, plan.tile.phases);
  plan.slot_blocks = static_cast<unsigned>(slot_blocks);
  plan.by_slot_blocks = Divisor(last ? slot_blocks : 1);
  plan.by_column_tiles = Divisor(column_tiles);
  plan.by_phase_blocks = Divisor(phase_blocks);
  plan.by_row_tiles = Divisor(row_tiles);
  plan.by_slots = Divisor(last ? plan.slots : 1);
  plan.by_lanes = Divisor(across * plan.thread_rows);
  plan.by_across = Divisor(across);
  plan.by_groups = Divisor(plan.groups);
  plan.by_row_phases = Divisor(dh);
  plan.by_channels = Divisor(last ? ceil_div<int64_t>(call.c, plan.slots) : call.c);
  // gridDim.x ends at 2^31 - 1, which no tensor that fits a device comes near; 0 blocks stand for more.
  const double blocks = double(slot_blocks) * double(row_tiles) * double(column_tiles) * double(phase_blocks);
  plan.blocks = blocks < 2147483648.0 ? static_cast<unsigned>(blocks) : 0;
  plan.threads = static_cast<unsigned>(round_up(plan.slots * across * plan.thread_rows, 32));
  const bool dense = !last && dw == 1 && call.w % 4 == 0;
  plan.fours_in = dense && aligned_by_fours<T>(call.x);
  plan.fours_out =
      dense && aligned_by_fours<T>(call.out) && aligned_by_fours<T>(call.gate) && aligned_by_fours<T>(call.residual);
  plan.from_registers =
      plan.fours_out && call.activation == Activation::none && call.gate == nullptr && call.residual == nullptr;
  return plan;
}

}  // namespace lightsr

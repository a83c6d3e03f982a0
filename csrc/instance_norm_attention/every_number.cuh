// How gated_affine and affine_gradient go through every number of a picture, with values of the pixel and values of the
// channel at hand.
//
// Plan: a block takes a tile of pixels with up to 256 of the channels in NCHW, with up to 64 loads of them in
// channels_last. What belongs to pixels lies in shared memory, in NCHW what belongs to channels too. NCHW: a thread
// keeps the pixels of one 16-byte load in registers and goes through every eighth channel. channels_last: it keeps the
// channels of one load and goes through every so many pixels. Four loads are under way at once, the first four before
// the values of the pixels are made. A tile is 128 pixels of 64 channels in float32: 450 blocks at (1, 64, 180, 320).
#pragma once

#include "affine.cuh"

namespace lightsr::norm {

struct EveryPlan {
  bool vectors;
  int64_t h, w;                      // that tiles are cut from: 1 and all pixels where none needs its neighbours
  int pixels, columns, column_bits;  // of a tile; powers of two
  int lanes;                         // NCHW: that share the channels
  int across, slots;                 // channels_last: vectors of channels, and pixels, that a block takes at once
  int64_t channels;                  // of a block
  unsigned row_tiles, column_tiles, groups, blocks;
  size_t shared_bytes;  // NCHW: for the channels
};

struct EveryPlace {
  int64_t n, y, x, channel;  // picture, first row, column and channel

  __device__ __forceinline__ explicit EveryPlace(const EveryPlan& plan) {
    unsigned rest = blockIdx.x;
    channel = rest % plan.groups * plan.channels;
    rest /= plan.groups;
    x = int64_t(rest % plan.column_tiles) * plan.columns;
    rest /= plan.column_tiles;
    y = int64_t(rest % plan.row_tiles) * (plan.pixels / plan.columns);
    n = rest / plan.row_tiles;
  }
  // Of a tile's pixel, the place among the picture's pixels; -1 outside.
  __device__ __forceinline__ int64_t pixel(const EveryPlan& plan, int p) const {
    const int64_t row = y + (p >> plan.column_bits), column = x + (p & (plan.columns - 1));
    return row < plan.h && column < plan.w ? row * plan.w + column : -1;
  }
};

inline int power_of_two(int64_t least, int most) {
  int power = 1;
  while (power < most && power < least) power *= 2;
  return power;
}

// `h` and `w` as in the plan; `square`: tiles have some columns and rows, where they can.
template <class T, class Channel, class Call>
EveryPlan every_plan(const Call& call, bool aligned, int64_t h, int64_t w, bool square) {
  EveryPlan plan{};
  plan.h = h, plan.w = w;
  plan.vectors = aligned && (call.channels_last ? call.c : w) % vector_of<T> == 0 && channels_at_16(call);
  const int by = plan.vectors ? vector_of<T> : 1;
  plan.lanes = 1;
  if (call.channels_last) {
    const int64_t many = ceil_div<int64_t>(call.c, by);
    plan.across = static_cast<int>(ceil_div(many, ceil_div<int64_t>(many, 64)));
    plan.slots = block_threads / plan.across;
    plan.channels = int64_t(plan.across) * by;
    plan.pixels = larger(64, power_of_two(8192 / plan.channels, 1024));
    plan.columns = power_of_two(w, square ? 32 : plan.pixels);
  } else {
    while (plan.lanes < (by == 1 ? 2 : 8) && 2 * plan.lanes <= call.c) plan.lanes *= 2;
    plan.pixels = block_threads / plan.lanes * by;
    plan.columns = power_of_two(w, square ? larger(32, 8 * by) : plan.pixels);
  }
  plan.columns = larger(plan.columns, 4);
  while (1 << plan.column_bits < plan.columns) ++plan.column_bits;
  plan.column_tiles = blocks_or_none(static_cast<double>(ceil_div<int64_t>(w, plan.columns)));
  plan.row_tiles = blocks_or_none(static_cast<double>(ceil_div<int64_t>(h, plan.pixels / plan.columns)));
  const double tiles = static_cast<double>(call.n) * plan.row_tiles * plan.column_tiles;
  if (!call.channels_last) {
    // Fewer channels a block where there are few pixels, but four loads a thread.
    const int64_t most = ceil_div<int64_t>(call.c, 4 * plan.lanes);
    const auto wanted = static_cast<int64_t>(enough_blocks / larger(tiles, 1.0));
    plan.channels = round_up<int64_t>(ceil_div(call.c, larger<int64_t>(1, smaller(most, wanted))), plan.lanes);
    plan.channels = smaller<int64_t>(plan.channels, most_channels);
    plan.shared_bytes = sizeof(Channel) * static_cast<size_t>(plan.channels);
  }
  plan.groups = static_cast<unsigned>(ceil_div(call.c, plan.channels));
  plan.blocks = blocks_or_none(tiles * plan.groups);
  return plan;
}

// Pass has: Held<by> with load(call, at); Channel, and load_channels(to, call, plane) for some; prepare(), which brings
// the values of pixels about and ends with a barrier; pixel(p), them; result(held, i, channel, pixel); call and out.
template <class T, int by, class Pass>
__device__ __forceinline__ void every_number_of_planes(const EveryPlan& plan, const EveryPlace& place,
                                                       const Pass& pass) {
  constexpr int at_once = 4;
  using Channel = typename Pass::Channel;
  const auto& call = pass.call;
  const int64_t area = call.h * call.w, plane = place.n * call.c + place.channel;
  const int channels = static_cast<int>(smaller(plan.channels, call.c - place.channel));
  const int thread = static_cast<int>(threadIdx.x), items = plan.pixels / by, p = thread % items * by;
  const int64_t pixel = place.pixel(plan, p), start = plane * area + pixel;
  const int first = thread / items, step = plan.lanes, end = pixel < 0 ? 0 : channels;
  typename Pass::template Held<by> held[at_once];
  const auto load = [&](int c) {
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      if (c + j * step < end) held[j].load(call, start + (c + j * step) * area);
    }
  };
  load(first);
  Channel* const all = shared_memory<Channel>();
#pragma unroll 1
  for (int c = thread; c < channels; c += block_threads) {
    Channel one[1];
    Pass::load_channels(one, call, plane + c);
    all[c] = one[0];
  }
  pass.prepare();
  decltype(pass.pixel(0)) pixels[by];
#pragma unroll
  for (int i = 0; i < by; ++i) pixels[i] = pass.pixel(p + i);
  T* const out = static_cast<T*>(pass.out) + start;
  for (int c = first; c < end; c += at_once * step) {
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      if (c + j * step >= end) continue;
      const Channel channel = all[c + j * step];
      Vector<T, by> results;
#pragma unroll
      for (int i = 0; i < by; ++i) results[i] = from_sum<T>(pass.result(held[j], i, channel, pixels[i]));
      store_vector(out + (c + j * step) * area, results);
    }
    load(c + at_once * step);
  }
}

template <class T, int by, class Pass>
__device__ __forceinline__ void every_number_of_pixels(const EveryPlan& plan, const EveryPlace& place,
                                                       const Pass& pass) {
  constexpr int at_once = 4;
  const auto& call = pass.call;
  const int thread = static_cast<int>(threadIdx.x), first = thread / plan.across, step = plan.slots;
  const int64_t channel = place.channel + thread % plan.across * by, start = place.n * call.h * call.w;
  const int end = first < step && channel < call.c ? plan.pixels : 0;
  typename Pass::template Held<by> held[at_once];
  int64_t at[at_once];
  const auto load = [&](int p) {
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      const int64_t pixel = p + j * step < end ? place.pixel(plan, p + j * step) : -1;
      at[j] = pixel < 0 ? -1 : (start + pixel) * call.c + channel;
      if (pixel >= 0) held[j].load(call, at[j]);
    }
  };
  load(first);
  typename Pass::Channel channels[by];
  Pass::load_channels(channels, call, place.n * call.c + (channel < call.c ? channel : 0));
  pass.prepare();
  T* const out = static_cast<T*>(pass.out);
  for (int p = first; p < end; p += at_once * step) {
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      if (at[j] < 0) continue;
      const auto pixel = pass.pixel(p + j * step);
      Vector<T, by> results;
#pragma unroll
      for (int i = 0; i < by; ++i) results[i] = from_sum<T>(pass.result(held[j], i, channels[i], pixel));
      store_vector(out + at[j], results);
    }
    load(p + at_once * step);
  }
}

template <class T, int by, bool last, class Pass>
__device__ __forceinline__ void every_number(const EveryPlan& plan, const EveryPlace& place, const Pass& pass) {
  if constexpr (last) {
    every_number_of_pixels<T, by>(plan, place, pass);
  } else {
    every_number_of_planes<T, by>(plan, place, pass);
  }
}

}  // namespace lightsr::norm

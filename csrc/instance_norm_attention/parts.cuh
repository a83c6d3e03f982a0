// How the passes that sum over planes cut them up. Every part of a plane has a slot of two float64 numbers in the
// workspace, [N C, parts, 2], that one thread writes; a second kernel adds them in their order. Sizes come from the
// shape alone, so the same sums are made on every device.
#pragma once

#include "affine.cuh"

namespace lightsr::norm {

struct PartsPlan {
  bool vectors;
  int64_t part;       // pixels of a part
  unsigned parts;     // of a plane
  unsigned groups;    // of channels, that blocks share out
  int64_t channels;   // of a group
  int across, slots;  // channels_last: the threads of a pixel, each with one vector of channels, and pixels at once
  unsigned blocks;
  size_t shared_bytes;
  int64_t workspace;  // bytes
};

using Slot = Vector<double, 2>;

constexpr int merge_threads = 128, most_pixels = 16;

// Blocks, groups and the workspace follow from the rest.
template <class Call>
PartsPlan parts_finished(const Call& call, PartsPlan plan, double blocks) {
  plan.blocks = plan.parts != 0 ? blocks_or_none(blocks) : 0;
  plan.workspace = call.n * call.c * plan.parts * static_cast<int64_t>(sizeof(Slot));
  return plan;
}

// channels_last: a block takes up to 64 vectors of channels of a stretch of pixels; thread (slot, vector) takes every
// slots-th pixel, 16 at most, so that sums in float32 stay short.
template <class Call>
PartsPlan pixel_parts(const Call& call, bool vectors, int by, size_t thread_bytes) {
  PartsPlan plan{};
  const int64_t area = call.h * call.w, many = ceil_div<int64_t>(call.c, by);
  plan.vectors = vectors;
  plan.groups = static_cast<unsigned>(ceil_div<int64_t>(many, 64));
  plan.across = static_cast<int>(ceil_div<int64_t>(many, plan.groups));
  plan.groups = static_cast<unsigned>(ceil_div<int64_t>(many, plan.across));
  plan.slots = block_threads / plan.across;
  plan.channels = int64_t(plan.across) * by;
  int each = most_pixels;
  const auto blocks = [&] {
    return static_cast<double>(call.n) * plan.groups * static_cast<double>(ceil_div<int64_t>(area, each * plan.slots));
  };
  while (each > 4 && blocks() < enough_blocks / 2) each /= 2;
  plan.part = int64_t(each) * plan.slots;
  plan.parts = blocks_or_none(static_cast<double>(ceil_div(area, plan.part)));
  plan.shared_bytes = thread_bytes * static_cast<size_t>(by * plan.across * plan.slots);
  return parts_finished(call, plan, blocks());
}

// A thread's place in a block of pixel_parts.
template <int by>
struct PixelPart {
  int64_t n, first, channel;  // picture, first pixel of the part, first channel of the thread
  int64_t part;
  int pixels, slot, vector;
  bool busy;

  template <class Call>
  __device__ __forceinline__ PixelPart(const Call& call, const PartsPlan& plan) {
    const unsigned rest = blockIdx.x / plan.groups, group = blockIdx.x % plan.groups;
    const int thread = static_cast<int>(threadIdx.x);
    n = rest / plan.parts, part = rest % plan.parts;
    first = part * plan.part;
    pixels = static_cast<int>(smaller<int64_t>(plan.part, call.h * call.w - first));
    slot = thread / plan.across, vector = thread % plan.across;
    channel = group * plan.channels + vector * by;
    busy = slot < plan.slots && channel < call.c;
  }
  // How many pixels a slot has.
  __device__ __forceinline__ int many(const PartsPlan& plan, int of) const {
    return of < pixels ? (pixels - of - 1) / plan.slots + 1 : 0;
  }
};

__device__ __forceinline__ double warp_sum(double sum) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

__device__ __forceinline__ float warp_sum(float sum) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

}  // namespace lightsr::norm

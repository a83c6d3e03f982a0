// Mean and variance of every plane, in one pass.
//
// Floor: x read once: 3 us for (1, 64, 180, 320) in float32 on an H200.
//
// Plan: a plane is cut into parts (parts.cuh). A batch is up to 32 numbers of a thread, summed in the sums' type as
// differences to the mean of its first ones, and their squares. Batches meet in float64 about the origin of the part's
// first one, and parts by Chan's rule in a second kernel, one block a plane. So nothing is ever squared that is large
// beside the deviation, unless an outlier makes that large too. NCHW: a warp takes a part of at least 1024 numbers of
// one plane, at (1, 64, 180, 320) 456 blocks of 8. channels_last: a thread has one batch for each channel of a 16-byte
// load, 450 blocks; what it has for a channel meets the others' in shared memory.
#pragma once

#include "parts.cuh"

namespace lightsr::norm {

// An origin that sums stay right about: infinities and NaN get into the sums by themselves.
template <class S>
__device__ __forceinline__ S origin_of(S number) {
  return number - number == S(0) ? number : S(0);
}

// In pairs, so that the mean of equal numbers is that number. `many` is a power of two.
template <class S, int many>
__device__ __forceinline__ S mean_of(S (&numbers)[many]) {
#pragma unroll
  for (int half = many / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
  }
  return numbers[0] * (S(1) / S(many));
}

// Of some numbers: the sums of what they are above `origin`, and of the squares.
template <class S>
struct Batch {
  S origin, sum, squares;

  __device__ __forceinline__ void begin(S number) { origin = origin_of(number), sum = squares = S(0); }
  __device__ __forceinline__ void add(S number) {
    const S difference = number - origin;
    sum += difference;
    squares += difference * difference;
  }
};

// The same in float64, for what other origins have.
struct Sums {
  double origin, sum, squares;

  __device__ __forceinline__ void add(double from, double more, double more_squares, double count) {
    const double shift = from - origin;
    sum += count * shift + more;
    squares += more_squares + shift * (more + more + count * shift);
  }
  __device__ __forceinline__ double mean(double count) const { return origin + sum / count; }
  // Mean, and the sum of squares about it.
  __device__ __forceinline__ Slot slot(double count) const {
    const double about = squares - sum * sum / count;
    return {mean(count), about < 0 ? 0 : about};
  }
};

template <class T, int by>
constexpr int moments_runs = by == 1 ? 16 : 4;  // vectors of a batch

template <class T, int by>
PartsPlan moments_planes_plan(const Moments& call) {
  constexpr int64_t most_warps = 32768, unit = 1024;
  static_assert(unit % (warp_size * by * moments_runs<T, by>) == 0);
  PartsPlan plan{};
  const int64_t area = call.h * call.w;
  const double numbers = static_cast<double>(call.n) * static_cast<double>(call.c) * static_cast<double>(area);
  plan.vectors = by > 1;
  plan.part = unit * (1 + static_cast<int64_t>(numbers / static_cast<double>(unit * most_warps)));
  plan.parts = blocks_or_none(static_cast<double>(ceil_div(area, plan.part)));
  const double warps = static_cast<double>(call.n) * static_cast<double>(call.c) * plan.parts;
  return parts_finished(call, plan, std::ceil(warps / (block_threads / warp_size)));
}

template <class T, int by>
__global__ void __launch_bounds__(block_threads) moments_planes(const Moments call, const PartsPlan plan) {
  using S = Sum<T>;
  constexpr int runs = moments_runs<T, by>;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int64_t warp = int64_t(blockIdx.x) * (block_threads / warp_size) + static_cast<int>(threadIdx.x) / warp_size;
  const int64_t plane = warp / plan.parts, first = warp % plan.parts * plan.part, area = call.h * call.w;
  if (plane >= call.n * call.c) return;
  const int64_t count = smaller(plan.part, area - first);
  const T* const from = static_cast<const T*>(call.x) + plane * area + first;
  Sums own{};
  int64_t own_count = 0;
  for (int64_t i = lane * by; i < count; i += runs * warp_size * by) {
    Vector<T, by> held[runs];
#pragma unroll
    for (int j = 0; j < runs; ++j) {
      if (i + j * warp_size * by < count) held[j] = load_vector<by>(from + i + j * warp_size * by);
    }
    constexpr int early = larger(by, 4), early_runs = early / by;
    S numbers[early];
#pragma unroll
    for (int j = 0; j < early; ++j) numbers[j] = to_sum(held[j / by][j % by]);
    Batch<S> batch;
    batch.begin(i + (early_runs - 1) * warp_size * by < count ? mean_of(numbers) : to_sum(held[0][0]));
    int many = 0;
#pragma unroll
    for (int j = 0; j < runs; ++j) {
      if (i + j * warp_size * by >= count) continue;
      many += by;
#pragma unroll
      for (int k = 0; k < by; ++k) batch.add(to_sum(held[j][k]));
    }
    if (own_count == 0) own.origin = batch.origin;
    own.add(batch.origin, batch.sum, batch.squares, many);
    own_count += many;
  }
  Sums sums{shuffle(own.origin, 0), 0, 0};
  sums.add(own.origin, own.sum, own.squares, static_cast<double>(own_count));
  sums.sum = warp_sum(sums.sum);
  sums.squares = warp_sum(sums.squares);
  if (lane == 0) static_cast<Slot*>(call.workspace)[warp] = sums.slot(static_cast<double>(count));
}

template <class T, int by>
__global__ void __launch_bounds__(block_threads) moments_pixels(const Moments call, const PartsPlan plan) {
  using S = Sum<T>;
  constexpr int at_once = 4;
  const PixelPart<by> at(call, plan);
  S* const shared = shared_memory<S>();  // [slots, 3, channels]: origin, sum, sum of squares
  const int channels = static_cast<int>(plan.channels);
  if (at.busy) {
    Batch<S> batches[by] = {};
    const T* const from = static_cast<const T*>(call.x) + (at.n * call.h * call.w + at.first) * call.c + at.channel;
    for (int pixel = at.slot; pixel < at.pixels; pixel += at_once * plan.slots) {
      Vector<T, by> held[at_once];
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (pixel + j * plan.slots < at.pixels) held[j] = load_vector<by>(from + (pixel + j * plan.slots) * call.c);
      }
      if (pixel == at.slot) {
        const bool whole = pixel + (at_once - 1) * plan.slots < at.pixels;
#pragma unroll
        for (int i = 0; i < by; ++i) {
          S numbers[at_once];
#pragma unroll
          for (int j = 0; j < at_once; ++j) numbers[j] = to_sum(held[j][i]);
          batches[i].begin(whole ? mean_of(numbers) : to_sum(held[0][i]));
        }
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (pixel + j * plan.slots >= at.pixels) continue;
#pragma unroll
        for (int i = 0; i < by; ++i) batches[i].add(to_sum(held[j][i]));
      }
    }
    S* const to = shared + at.slot * 3 * channels + at.vector * by;
#pragma unroll
    for (int i = 0; i < by; ++i) {
      to[i] = batches[i].origin;
      to[channels + i] = batches[i].sum;
      to[2 * channels + i] = batches[i].squares;
    }
  }
  sync_threads();
  const int64_t group = at.channel - at.vector * by;
  for (int c = static_cast<int>(threadIdx.x); c < channels && group + c < call.c; c += block_threads) {
    Sums sums{static_cast<double>(shared[c]), 0, 0};
    for (int slot = 0; slot < smaller(plan.slots, at.pixels); ++slot) {
      const S* const of = shared + slot * 3 * channels + c;
      sums.add(of[0], of[channels], of[2 * channels], at.many(plan, slot));
    }
    const int64_t plane = at.n * call.c + group + c;
    static_cast<Slot*>(call.workspace)[plane * plan.parts + at.part] = sums.slot(at.pixels);
  }
}

// Chan's rule: two sets of numbers as one.
struct Moment {
  double count, mean, squares;

  __device__ __forceinline__ void merge(const Moment& other) {
    if (other.count == 0) return;
    const double both = count + other.count, weight = other.count / both, apart = other.mean - mean;
    squares += other.squares + apart * apart * count * weight;
    // Infinities of one sign stay one, as in a plain sum.
    mean = apart - apart == 0 ? mean + apart * weight : mean + other.mean;
    count = both;
  }
};

__device__ __forceinline__ Moment shuffled(const Moment& moment, int distance) {
  return {shuffle_down(moment.count, distance), shuffle_down(moment.mean, distance),
          shuffle_down(moment.squares, distance)};
}

__global__ void __launch_bounds__(merge_threads) moments_merge(const Moments call, const PartsPlan plan) {
  const int64_t plane = blockIdx.x, area = call.h * call.w;
  const Slot* const slots = static_cast<const Slot*>(call.workspace) + plane * plan.parts;
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  Moment moment{};
#pragma unroll 4
  for (int64_t part = threadIdx.x; part < plan.parts; part += merge_threads) {
    const Slot slot = slots[part];
    moment.merge({static_cast<double>(smaller(plan.part, area - part * plan.part)), slot[0], slot[1]});
  }
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const Moment other = shuffled(moment, distance);
    if (lane < distance) moment.merge(other);
  }
  auto* const warps = shared_memory<Moment>();
  if (lane == 0) warps[warp] = moment;
  sync_threads();
  if (threadIdx.x != 0) return;
  for (int other = 1; other < merge_threads / warp_size; ++other) moment.merge(warps[other]);
  call.mean[plane] = moment.mean;
  call.variance[plane] = moment.squares / moment.count;
}

template <class T>
PartsPlan moments_plan(const Moments& call) {
  constexpr int by = vector_of<T>;
  const bool vectors = at_16(call.x) && (call.channels_last ? call.c : call.h * call.w) % by == 0;
  if (call.channels_last) return pixel_parts(call, vectors, vectors ? by : 1, 3 * sizeof(Sum<T>));
  return vectors ? moments_planes_plan<T, by>(call) : moments_planes_plan<T, 1>(call);
}

template <class T>
int moments_launch(const Moments& call, void* stream) {
  constexpr int by = vector_of<T>;
  const PartsPlan plan = moments_plan<T>(call);
  const unsigned planes = blocks_or_none(static_cast<double>(call.n) * static_cast<double>(call.c));
  if (plan.blocks == 0 || planes == 0) return invalid_configuration;
  const auto start = [&](auto kernel) {
    return LIGHTSR_LAUNCH(kernel, plan.blocks, block_threads, plan.shared_bytes, stream, call, plan);
  };
  const int error = call.channels_last ? (plan.vectors ? start(moments_pixels<T, by>) : start(moments_pixels<T, 1>))
                                       : (plan.vectors ? start(moments_planes<T, by>) : start(moments_planes<T, 1>));
  if (error != 0) return error;
  constexpr size_t bytes = merge_threads / warp_size * sizeof(Moment);
  return LIGHTSR_LAUNCH(moments_merge, planes, merge_threads, bytes, stream, call, plan);
}

}  // namespace lightsr::norm

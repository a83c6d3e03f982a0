// The sums over pixels that distillation_fusion's other gradients are made of, and what its residual gets.
//
//   products = grad (part map)', sums = sum of grad, residual_product = sum of grad residual,
//   grad_residual = residual_gain grad
//
// Floor: grad, parts and maps read once, as many FMA as forward; the residual's are two pictures more.
//
// Plan: a block makes 64 x 64 numbers of products from a run of pixels, 64 (32 in wide types) at a time by the pipeline
// of plan.cuh; it has up to four slots of the parts, so that narrow parts share a reading of grad. Sums of a run are
// float32 (float64 for that) and go to the run's place in the workspace; a second kernel adds the runs in their order
// in float64. The runs depend on sizes alone: the same bits in every run of the program, no atomics.
#pragma once

#include <initializer_list>

#include "forward.cuh"

namespace lightsr::fusion {

struct ProductsPlan {
  int slots, part_bytes, out_bytes;
  unsigned ins, outs;                        // blocks across and down a matrix of products
  unsigned batches, runs;                    // matrices in the result, and runs of each
  int64_t chunks;                            // of one picture
  int64_t part_size;                         // of a run in the workspace: products, then sums
  unsigned residual_blocks, residual_tiles;  // of all pictures; of one
};

constexpr int residual_pixels = 256, residual_threads = 256;

template <class T, bool last>
__global__ void __launch_bounds__(threads_of<T>(side), resident<T>(side))
    fusion_products(const __grid_constant__ DistillationFusionBackward all, const ProductsPlan plan) {
  using S = Sum<T>;
  constexpr int depth = depth_of<T>(), pitch = odd_row<T>(last ? side : depth);
  constexpr int size = last ? numbers_of<T>(depth, side) : numbers_of<T>(side, depth), slots = side / slot;
  const DistillationFusion& call = all.call;
  T* const grads = shared_memory<T>();
  T* const parts = grads + 2 * size;
  S* const sums = reinterpret_cast<S*>(parts + 2 * size);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < side) sums[thread] = S(0);

  unsigned rest = blockIdx.x;
  const unsigned in_group = rest % plan.ins;
  rest /= plan.ins;
  const int64_t first_out = int64_t(rest % plan.outs) * side;
  rest /= plan.outs;
  const int64_t run = rest % plan.runs, batch = rest / plan.runs;
  const int64_t chunks = plan.batches == 1 ? plan.chunks * call.n : plan.chunks;
  const int64_t begin = chunks * run / plan.runs, end = chunks * (run + 1) / plan.runs;
  const int outs = static_cast<int>(smaller<int64_t>(side, call.out_channels - first_out));
  const int here_slots = smaller(slots, plan.slots - static_cast<int>(in_group) * slots);
  SlotWalk start(call);
  for (unsigned i = 0; i < in_group * slots; ++i) start.next(call);

  const auto pixels_of = [&](int chunk) {
    const int64_t each = batch * plan.chunks + begin + chunk;
    return tile_pixels(call, depth, each / plan.chunks, each % plan.chunks);
  };
  const auto load = [&](int chunk, int buffer) {
    const Pixels here = pixels_of(chunk);
    T *const grad = grads + buffer * size, *const part = parts + buffer * size;
    load_channels<T, last>(grad, pitch,
                           static_cast<const T*>(all.grad) + dense_at<last>(call, call.out_channels, here, first_out),
                           last ? call.out_channels : call.pixels, nullptr, outs, outs, here.count, plan.out_bytes);
    SlotWalk walk = start;
#pragma unroll 1
    for (int i = 0; i < here_slots; ++i, walk.next(call)) {
      const int channels = walk.channels(call);
      const Slice& slice = call.part[walk.part];
      load_channels<T, last>(part + i * slot * (last ? 1 : pitch), pitch, slice_at<T, last>(slice, here, walk.first),
                             slice.step, map_at<T>(call, walk.part, here), channels, channels, here.count,
                             plan.part_bytes);
    }
    if (here.count == depth) return;
    for (T* each : {grad, part}) {  // beyond the pixels
      clear_tile(each, pitch, last ? here.count : 0, last ? depth : side, last ? 0 : here.count, last ? side : depth);
    }
  };
  const auto operands = [&](int, int buffer) {
    return Operands<T>{grads + buffer * size, pitch, parts + buffer * size, pitch, depth, side, side};
  };
  const auto also = [&](int chunk, int buffer) {
    if (in_group != 0) return;
    const T* grad = grads + buffer * size;
    sum_lines<S>(
        outs, pixels_of(chunk).count,
        [&](int channel, int pixel) { return to_sum(grad[last ? pixel * pitch + channel : channel * pitch + pixel]); },
        [&](int channel, S sum) { sums[channel] += sum; });
  };
  Product<T> product[1];
  accumulate<last, !last>(product, static_cast<int>(end - begin), load, operands, also);

  S* const to = static_cast<S*>(all.workspace) + (batch * plan.runs + run) * plan.part_size;
  finish<!last>(product, side, [&](int row, int column, const auto& some) {
    constexpr int many = sizeof(some) / sizeof(S);
    if (row >= outs || column / slot >= here_slots) return;
    SlotWalk walk = start;
    for (int i = 0; i < column / slot; ++i) walk.next(call);
    const int channels = walk.channels(call);
#pragma unroll
    for (int i = 0; i < many; ++i) {
      const int channel = column % slot + i;
      if (channel < channels) to[(first_out + row) * call.in + walk.column + channel] = some[i];
    }
  });
  if (in_group == 0 && thread < outs) to[call.out_channels * call.in + first_out + thread] = sums[thread];
}

// 32 neighbouring numbers of a result a block; of each, 8 threads add up every eighth run, then the eight in their
// order.
template <class T>
__global__ void __launch_bounds__(256) fusion_sums(const DistillationFusionBackward all, const ProductsPlan plan) {
  auto* const sums = shared_memory<double>();
  const unsigned number = threadIdx.x % 32, eighth = threadIdx.x / 32;
  const int64_t place = int64_t(blockIdx.x) * 32 + number, products = all.call.out_channels * all.call.in;
  const int64_t batch = place / plan.part_size, at = place % plan.part_size;
  const bool real = batch < plan.batches;
  const auto* from = static_cast<const Sum<T>*>(all.workspace) + batch * plan.runs * plan.part_size + at;
  double sum = 0;
  if (real) {
#pragma unroll 4
    for (unsigned run = eighth; run < plan.runs; run += 8) sum += double(from[run * plan.part_size]);
  }
  sums[threadIdx.x] = sum;
  sync_threads();
  if (eighth != 0 || !real) return;
  for (unsigned other = 1; other < 8; ++other) sum += sums[other * 32 + number];
  if (at < products) {
    if (all.products != nullptr) all.products[batch * products + at] = sum;
  } else if (all.sums != nullptr) {
    all.sums[batch * all.call.out_channels + at - products] = sum;
  }
}

// The sum of the block's numbers, to thread 0.
__device__ __forceinline__ double block_sum(double mine) {
  auto* const sums = shared_memory<double>();
  sums[threadIdx.x] = mine;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    sync_threads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

template <class T, bool last>
__global__ void __launch_bounds__(residual_threads)
    fusion_residual(const DistillationFusionBackward all, const ProductsPlan plan, double* parts) {
  using S = Sum<T>;
  const DistillationFusion& call = all.call;
  const S gain = one_number<T>(call.residual_gain);
  const int64_t tiles = call.n * plan.residual_tiles, end = tiles * (blockIdx.x + 1) / gridDim.x;
  const int64_t step = last ? call.out_channels : call.pixels;
  double sum = 0;
  for (int64_t tile = tiles * blockIdx.x / gridDim.x; tile < end; ++tile) {
    const Pixels here = tile_pixels(call, residual_pixels, tile / plan.residual_tiles, tile % plan.residual_tiles);
    const int64_t dense = dense_at<last>(call, call.out_channels, here, 0);
    const T* grad = static_cast<const T*>(all.grad) + dense;
    const int channels = static_cast<int>(call.out_channels);
    S some = S(0);
    each_run<T>(last ? here.count : channels, last ? channels : here.count, plan.out_bytes,
                [&](int row, int column, auto number) {
                  constexpr int many = decltype(number)::value;
                  S values[many], more[many];
                  get_run(grad + row * step + column, values);
                  if (all.residual_product != nullptr) {
                    const T* residual = slice_at<T, last>(call.residual, here, 0);
                    get_run(residual + row * call.residual.step + column, more);
#pragma unroll
                    for (int i = 0; i < many; ++i) some += values[i] * more[i];
                  }
                  if (all.grad_residual == nullptr) return;
#pragma unroll
                  for (int i = 0; i < many; ++i) values[i] *= gain;
                  put_run(static_cast<T*>(all.grad_residual) + dense + row * step + column, values);
                });
    sum += double(some);
  }
  if (all.residual_product == nullptr) return;
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(residual_threads)
    fusion_residual_sum(const double* parts, unsigned count, double* to) {
  double sum = 0;
  for (unsigned i = threadIdx.x; i < count; i += residual_threads) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *to = sum;
}

template <class T>
ProductsPlan products_plan(const DistillationFusionBackward& all) {
  const DistillationFusion& call = all.call;
  constexpr int64_t enough_blocks = 528;
  ProductsPlan plan{};
  const FusionPlan parts = fusion_plan<T>(call);
  plan.slots = parts.slots;
  plan.part_bytes = parts.part_bytes;
  Alignment out = out_alignment<T>(call, all.grad);
  if (call.residual.data != nullptr) {
    out.pointer(call.residual.data).step(call.residual.picture).step(call.residual.step).pointer(all.grad_residual);
  }
  plan.out_bytes = out.bytes();
  plan.residual_tiles = static_cast<unsigned>(ceil_div<int64_t>(call.pixels, residual_pixels));
  plan.residual_blocks = static_cast<unsigned>(smaller<int64_t>(enough_blocks, call.n * plan.residual_tiles));
  if (all.products == nullptr && all.sums == nullptr) return plan;
  plan.ins = all.products != nullptr ? static_cast<unsigned>(ceil_div(plan.slots, side / slot)) : 1;
  plan.outs = static_cast<unsigned>(ceil_div<int64_t>(call.out_channels, side));
  plan.batches = all.each_picture ? static_cast<unsigned>(call.n) : 1;
  plan.chunks = ceil_div<int64_t>(call.pixels, depth_of<T>());
  const int64_t chunks = all.each_picture ? plan.chunks : plan.chunks * call.n;
  const int64_t runs = ceil_div(enough_blocks, int64_t(plan.ins) * plan.outs * plan.batches);
  plan.runs = static_cast<unsigned>(smaller(runs, chunks));
  plan.part_size = call.out_channels * (call.in + 1);
  return plan;
}

template <class T>
int64_t products_bytes(const ProductsPlan& plan) {
  return round_up<int64_t>(plan.part_size * plan.batches * plan.runs * int64_t(sizeof(Sum<T>)), 16);
}

template <class T, bool last>
int backward_products(const DistillationFusionBackward& all, void* stream) {
  const ProductsPlan plan = products_plan<T>(all);
  if (plan.part_size > 0) {
    constexpr int size = last ? numbers_of<T>(depth_of<T>(), side) : numbers_of<T>(side, depth_of<T>());
    constexpr size_t bytes = 4 * size * sizeof(T) + side * sizeof(Sum<T>);
    const double blocks = double(plan.ins) * plan.outs * plan.batches * plan.runs;
    if (blocks >= 2147483648.0) return 9;  // cudaErrorInvalidConfiguration
    int error = LIGHTSR_LAUNCH((fusion_products<T, last>), static_cast<unsigned>(blocks), threads_of<T>(side), bytes,
                               stream, all, plan);
    if (error != 0) return error;
    const auto sums = static_cast<unsigned>(ceil_div<int64_t>(plan.part_size * plan.batches, 32));
    error = LIGHTSR_LAUNCH(fusion_sums<T>, sums, 256, 256 * sizeof(double), stream, all, plan);
    if (error != 0) return error;
  }
  if (all.grad_residual == nullptr && all.residual_product == nullptr) return 0;
  constexpr size_t bytes = residual_threads * sizeof(double);
  auto* const parts = reinterpret_cast<double*>(static_cast<char*>(all.workspace) + products_bytes<T>(plan));
  const int error = LIGHTSR_LAUNCH((fusion_residual<T, last>), plan.residual_blocks, residual_threads, bytes, stream,
                                   all, plan, parts);
  if (error != 0 || all.residual_product == nullptr) return error;
  return LIGHTSR_LAUNCH(fusion_residual_sum<T>, 1, residual_threads, bytes, stream, static_cast<const double*>(parts),
                        plan.residual_blocks, all.residual_product);
}

template <class T>
int64_t backward_workspace(const DistillationFusionBackward& all) {
  const ProductsPlan plan = products_plan<T>(all);
  const int64_t residual = all.residual_product != nullptr ? plan.residual_blocks * int64_t(sizeof(double)) : 0;
  return products_bytes<T>(plan) + residual;
}

}  // namespace lightsr::fusion

// One 1x1 convolution for any number of channels, with the gate and the residual: the part of mix.cuh that is left
// where all channels of a pixel do not fit into shared memory. A block makes 64 x 64 numbers of the product and goes
// through the input channels by 32; the second convolution is a second launch, y lies in the workspace between them.
#pragma once

#include "mix.cuh"

namespace lightsr::attention {

constexpr int mix_part_size = 64, mix_part_depth = 32;

// out = (weight from + bias) gate + residual; all of them pictures.
struct MixPart {
  int64_t c, area;
  const void *weight, *bias, *from, *gate, *residual;
  void* out;
  unsigned pixel_tiles, channel_tiles;
};

template <class T, bool last>
__global__ void __launch_bounds__(256) mix_part(const MixPart call) {
  using Units = Product<T>;
  using S = Sum<T>;
  constexpr int size = mix_part_size, depth = mix_part_depth;
  constexpr int a_pitch = odd_row<T>(depth), b_pitch = odd_row<T>(last ? depth : size);
  T* const a = shared_memory<T>();
  T* const b = a + size * a_pitch;

  unsigned rest = blockIdx.x;
  const int64_t channel = int64_t(rest % call.channel_tiles) * size;
  rest /= call.channel_tiles;
  const int64_t pixel = int64_t(rest % call.pixel_tiles) * size;
  const int64_t start = rest / call.pixel_tiles * call.c * call.area;
  const int64_t channel_step = last ? 1 : call.area, pixel_step = last ? call.c : 1;
  const T *const weight = static_cast<const T*>(call.weight), *const from = static_cast<const T*>(call.from) + start;

  const int thread = static_cast<int>(threadIdx.x), item = thread / Units::lanes, across = size / Units::columns;
  const int row = item / across * Units::rows, column = item % across * Units::columns;
  Units product;
  for (int64_t k = 0; k < call.c; k += depth) {
    sync_threads();
    // Neighbouring threads read neighbouring numbers: input channels of a matrix and of a channels_last picture, else
    // pixels.
    for (int i = thread; i < size * depth; i += static_cast<int>(blockDim.x)) {
      const int64_t out = channel + i / depth, in = k + i % depth;
      const T number = out < call.c && in < call.c ? weight[out * call.c + in] : from_sum<T>(S(0));
      (last ? b : a)[i / depth * (last ? b_pitch : a_pitch) + i % depth] = number;
    }
    for (int i = thread; i < size * depth; i += static_cast<int>(blockDim.x)) {
      const int line = last ? i / depth : i % size, level = last ? i % depth : i / size;
      const bool real = pixel + line < call.area && k + level < call.c;
      const T number = real ? from[(pixel + line) * pixel_step + (k + level) * channel_step] : from_sum<T>(S(0));
      if (last) {
        a[line * a_pitch + level] = number;
      } else {
        b[level * b_pitch + line] = number;
      }
    }
    sync_threads();
    product.template add<false, last>(Operands<T>{a, a_pitch, b, b_pitch, depth, size, size}, row, column);
  }

  const auto put = [&](int tile_row, int tile_column, const auto& sums) {
    constexpr int many = sizeof(sums) / sizeof(sums[0]);
#pragma unroll
    for (int i = 0; i < many; ++i) {
      const int64_t out = channel + (last ? tile_column + i : tile_row);
      const int64_t where = pixel + (last ? tile_row : tile_column + i);
      if (out >= call.c || where >= call.area) continue;
      const int64_t at = start + out * channel_step + where * pixel_step;
      S value = sums[i];
      if (call.bias != nullptr) value += to_sum(static_cast<const T*>(call.bias)[out]);
      if (call.gate != nullptr) value *= to_sum(static_cast<const T*>(call.gate)[at]);
      if (call.residual != nullptr) value += to_sum(static_cast<const T*>(call.residual)[at]);
      static_cast<T*>(call.out)[at] = from_sum<T>(value);
    }
  };
  product.template finish<last>(row, column, size, put);
}

template <class T, bool last>
int mix_part_launch(MixPart call, int64_t n, void* stream) {
  using Units = Product<T>;
  constexpr int items = mix_part_size / Units::rows * (mix_part_size / Units::columns);
  constexpr int pitch = odd_row<T>(mix_part_depth);
  constexpr size_t bytes =
      sizeof(T) * (mix_part_size * pitch + larger(mix_part_depth * odd_row<T>(mix_part_size), mix_part_size * pitch));
  call.pixel_tiles = static_cast<unsigned>(ceil_div<int64_t>(call.area, mix_part_size));
  call.channel_tiles = static_cast<unsigned>(ceil_div<int64_t>(call.c, mix_part_size));
  const double blocks = double(n) * call.pixel_tiles * call.channel_tiles;
  if (blocks >= 2147483648.0) return 9;  // cudaErrorInvalidConfiguration
  return LIGHTSR_LAUNCH((mix_part<T, last>), static_cast<unsigned>(blocks), items * Units::lanes, bytes, stream, call);
}

}  // namespace lightsr::attention

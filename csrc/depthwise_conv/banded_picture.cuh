// Which planes a block works on: a picture cut by channels and by phases of the dilation.
//
// With taps dh rows and dw columns apart, the rows y = py + dh r and columns x = px + dw i for one pair (py, px) meet
// no others: dh dw lattices, each an undilated convolution. A block takes one row phase, and of the column phases
// either one (channels_last: it takes several channels instead) or several neighbours at once, so that it reads whole
// runs of memory.
#pragma once

#include "arguments.h"
#include "banded_tile.cuh"

namespace lightsr {

struct BandPicture {
  bool channels_last;
  int channels, height, width;
  int dh, dw;        // at most height and width, which changes nothing
  int block_planes;  // channels of a block, if channels_last, else its column phases
  int64_t image_stride, channel_stride, row_stride, column_stride;

  __host__ __device__ int column_groups() const { return channels_last ? dw : ceil_div(dw, block_planes); }
  __host__ __device__ int channel_groups() const { return channels_last ? ceil_div(channels, block_planes) : channels; }
  __host__ __device__ int phases() const { return dh * column_groups(); }

  // The planes of one block and where they begin.
  __device__ __forceinline__ BandPlanes planes(int64_t image, int channel_group, int phase, int64_t& origin) const {
    const int row_phase = phase / column_groups();
    const int column_phase = (phase - row_phase * column_groups()) * (channels_last ? 1 : block_planes);
    const int channel = channel_group * (channels_last ? block_planes : 1);
    origin = image * image_stride + channel * channel_stride + row_phase * row_stride + column_phase * column_stride;
    BandPlanes all;
    all.row_step = dh * row_stride;
    all.column_step = dw * column_stride;
    all.rows = ceil_div(height - row_phase, dh);
    all.columns = ceil_div(width - column_phase, dw);
    all.planes = smaller(block_planes, channels_last ? channels - channel : dw - column_phase);
    all.longer = channels_last ? block_planes : (width - column_phase - 1) % dw + 1;
    return all;
  }
};

// One channel lies the same in either layout, and travels faster in the plain one.
template <class Call>
Call band_layout(Call call) {
  call.channels_last = call.channels_last && call.c > 1;
  return call;
}

template <class Call>
BandPicture band_picture(const Call& call, int block_planes) {
  BandPicture picture;
  picture.channels_last = call.channels_last;
  picture.channels = static_cast<int>(call.c);
  picture.height = static_cast<int>(call.h);
  picture.width = static_cast<int>(call.w);
  picture.dh = static_cast<int>(smaller(call.dh, call.h));
  picture.dw = static_cast<int>(smaller(call.dw, call.w));
  picture.block_planes = block_planes;
  picture.image_stride = call.c * call.h * call.w;
  picture.channel_stride = picture.channels_last ? 1 : call.h * call.w;
  picture.column_stride = picture.channels_last ? call.c : 1;
  picture.row_stride = call.w * picture.column_stride;
  return picture;
}

// The widest way to move a tensor's tiles that begin `left` columns before a multiple of 8.
inline BandMove band_move(const BandPicture& picture, const void* tensor, int left) {
  const auto address = reinterpret_cast<uintptr_t>(tensor);
  if (picture.channels_last) {
    const bool aligned = picture.channels % 8 == 0 && picture.block_planes % 8 == 0 && address % 16 == 0;
    return aligned ? BandMove::octets : BandMove::numbers;
  }
  if (picture.dw > 1) {
    const bool aligned = picture.width % 4 == 0 && left % 4 == 0 && address % 8 == 0;
    if (!aligned || picture.dw > 3) return BandMove::numbers;
    return picture.dw == 2 ? BandMove::phases2 : BandMove::phases3;
  }
  const auto fits = [&](int bytes) {
    return 2 * picture.width % bytes == 0 && 2 * left % bytes == 0 && address % bytes == 0;
  };
  return fits(16) ? BandMove::bytes16 : fits(8) ? BandMove::bytes8 : fits(4) ? BandMove::bytes4 : BandMove::numbers;
}

// Sizes that the kernels' 32-bit numbers hold, with room; tensors themselves may be of any size.
template <class Call>
bool fits_banded(const Call& call) {
  constexpr int64_t most = int64_t{1} << 29;
  const bool sizes = call.c < most && call.h < most && call.w < most && call.n < most;
  // Every phase has its own tiles.
  return sizes && ceil_div(call.h, int64_t{16}) + smaller(call.dh, call.h) <
                      most / (ceil_div(call.w, int64_t{32}) + smaller(call.dw, call.w));
}

// Of the largest lattice.
template <class Call>
int64_t lattice_size(const Call& call) {
  return ceil_div(call.h, smaller(call.dh, call.h)) * ceil_div(call.w, smaller(call.dw, call.w));
}

}  // namespace lightsr

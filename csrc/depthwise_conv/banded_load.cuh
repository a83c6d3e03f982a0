// From the picture to shared memory's tiles, for banded_tile.cuh's moves.
#pragma once

#include "../common/copy_async.cuh"
#include "banded_tile.cuh"

namespace lightsr {

template <int bytes>
__device__ __forceinline__ void load_band_pieces(const BandTile& tile, const uint16_t* origin,
                                                 const BandPlanes& planes) {
  constexpr int numbers = bytes / 2;
  for (BandWalk walk(tile.tile_columns / numbers, 1); walk.row < tile.tile_rows; walk.next()) {
    const int row = tile.first_row + walk.row, column = tile.first_column + walk.column * numbers;
    const bool real = planes.real(0, row, column);
    const uint16_t* from = real ? origin + planes.offset(0, row, column) : origin;
    unsigned char* to = tile.at(tile.first_plane, walk.row, walk.column * numbers);
    if constexpr (bytes == 16) copy_async_16(to, from, real);
    if constexpr (bytes == 8) copy_async_8(to, from, real);
    if constexpr (bytes == 4) copy_async_4(to, from, real);
  }
}

template <int width>
__device__ __forceinline__ void load_band_octets(const BandTile& tile, const uint16_t* origin,
                                                 const BandPlanes& planes) {
  for (BandWalk walk(tile.tile_columns / width, tile.tile_planes / 8); walk.row < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + 8 * walk.plane;
    const int row = tile.first_row + walk.row, column = tile.first_column + width * walk.column;
    const uint16_t* from = origin + planes.offset(plane, row, column);
    const unsigned end = planes.width(plane, row);
    Vector<uint32_t, 4> pixels[width];
#pragma unroll
    for (int i = 0; i < width; ++i, from += planes.column_step) {
      pixels[i] = {};
      if (static_cast<unsigned>(column + i) < end) pixels[i] = load_vector<4>(reinterpret_cast<const uint32_t*>(from));
    }
    band_transpose(pixels);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      Vector<uint32_t, width / 2> channel;
#pragma unroll
      for (int j = 0; j < width / 2; ++j) channel[j] = pixels[2 * j + i % 2][i / 2];
      store_vector(reinterpret_cast<uint32_t*>(tile.at(plane + i, walk.row, width * walk.column)), channel);
    }
  }
}

// All column phases of a dilation of `dw`: neighbours in memory.
template <int dw>
__device__ __forceinline__ void load_band_phases(const BandTile& tile, const uint16_t* origin,
                                                 const BandPlanes& planes) {
  const unsigned end = (planes.columns - 1) * dw + planes.longer;  // of a row of all phases
  for (BandWalk walk(tile.tile_columns / 8, 1); walk.row < tile.tile_rows; walk.next()) {
    const int row = tile.first_row + walk.row, column = dw * (tile.first_column + 8 * walk.column);
    const uint16_t* from = origin + row * planes.row_step + column;
    uint32_t words[4 * dw];
#pragma unroll
    for (int i = 0; i < 2 * dw; ++i) {
      Vector<uint32_t, 2> pair = {};
      if (planes.real_row(row) && static_cast<unsigned>(column + 4 * i) < end) {
        pair = load_vector<2>(reinterpret_cast<const uint32_t*>(from + 4 * i));
      }
      words[2 * i] = pair[0];
      words[2 * i + 1] = pair[1];
    }
#pragma unroll
    for (int phase = 0; phase < dw; ++phase) {
      Vector<uint32_t, 4> numbers;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int first = 2 * i * dw + phase, second = first + dw;
        const uint32_t low = words[first / 2], high = words[second / 2];
        numbers[i] = (first % 2 ? low >> 16 : low & 0xffffu) | (second % 2 ? high & 0xffff0000u : high << 16);
      }
      store_vector(reinterpret_cast<uint32_t*>(tile.at(phase, walk.row, 8 * walk.column)), numbers);
    }
  }
}

// A thread takes `batch` rows of a column, so that as many loads are under way.
template <int batch>
__device__ __forceinline__ void load_band_numbers(const BandTile& tile, const uint16_t* origin,
                                                  const BandPlanes& planes) {
  for (BandWalk walk(tile.tile_columns, tile.tile_planes); walk.row * batch < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + walk.plane, column = tile.first_column + walk.column;
    const int first = walk.row * batch, row = tile.first_row + first;
    const bool inside = static_cast<unsigned>(column) < planes.width(plane);
    const uint16_t* from = origin + planes.offset(plane, row, column);
    uint16_t number[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i, from += planes.row_step) {
      number[i] = 0;
      if (inside && planes.real_row(row + i)) number[i] = *from;
    }
    unsigned char* to = tile.at(plane, first, walk.column);
#pragma unroll
    for (int i = 0; i < batch; ++i, to += tile.pitch) {
      if (first + i < tile.tile_rows) *reinterpret_cast<uint16_t*>(to) = number[i];
    }
  }
}

// What lies outside the planes becomes zeros. The numbers are there after copy_wait<0> and a barrier. A smaller
// `width` takes fewer registers.
template <int width>
__device__ __forceinline__ void load_band_tile(BandTile tile, const uint16_t* origin, BandPlanes planes,
                                               BandMove move) {
  switch (move) {
    case BandMove::bytes16:
      load_band_pieces<16>(tile, origin, planes);
      break;
    case BandMove::bytes8:
      load_band_pieces<8>(tile, origin, planes);
      break;
    case BandMove::bytes4:
      load_band_pieces<4>(tile, origin, planes);
      break;
    case BandMove::phases2:
      load_band_phases<2>(tile, origin, planes);
      break;
    case BandMove::phases3:
      load_band_phases<3>(tile, origin, planes);
      break;
    case BandMove::octets:
      load_band_octets<width>(tile, origin, planes);
      break;
    default:
      load_band_numbers<width>(tile, origin, planes);
  }
  copy_commit();
}

}  // namespace lightsr

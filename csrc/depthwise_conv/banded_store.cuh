// From shared memory's tiles to the picture, for banded_tile.cuh's moves.
#pragma once

#include "banded_tile.cuh"

namespace lightsr {

template <int bytes>
__device__ __forceinline__ void store_band_pieces(const BandTile& tile, uint16_t* origin, const BandPlanes& planes) {
  constexpr int numbers = bytes / 2;
  for (BandWalk walk(tile.tile_columns / numbers, 1); walk.row < tile.tile_rows; walk.next()) {
    const int row = tile.first_row + walk.row, column = tile.first_column + walk.column * numbers;
    if (!planes.real(0, row, column)) continue;
    auto* from = reinterpret_cast<const uint32_t*>(tile.at(tile.first_plane, walk.row, walk.column * numbers));
    auto* to = reinterpret_cast<uint32_t*>(origin + planes.offset(0, row, column));
    store_vector(to, load_vector<bytes / 4>(from));
  }
}

__device__ __forceinline__ void store_band_octets(const BandTile& tile, uint16_t* origin, const BandPlanes& planes) {
  for (BandWalk walk(tile.tile_columns / 8, tile.tile_planes / 8); walk.row < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + 8 * walk.plane;
    const int row = tile.first_row + walk.row, column = tile.first_column + 8 * walk.column;
    if (!planes.real(plane, row, column)) continue;
    Vector<uint32_t, 4> channels[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      channels[i] = load_vector<4>(reinterpret_cast<const uint32_t*>(tile.at(plane + i, walk.row, 8 * walk.column)));
    }
    band_transpose(channels);
    uint16_t* to = origin + planes.offset(plane, row, column);
    const unsigned end = planes.width(plane, row);
#pragma unroll
    for (int i = 0; i < 8; ++i, to += planes.column_step) {
      if (static_cast<unsigned>(column + i) >= end) continue;
      Vector<uint32_t, 4> pixel;
#pragma unroll
      for (int j = 0; j < 4; ++j) pixel[j] = channels[2 * j + i % 2][i / 2];
      store_vector(reinterpret_cast<uint32_t*>(to), pixel);
    }
  }
}

template <int dw>
__device__ __forceinline__ void store_band_phases(const BandTile& tile, uint16_t* origin, const BandPlanes& planes) {
  const unsigned end = (planes.columns - 1) * dw + planes.longer;
  for (BandWalk walk(tile.tile_columns / 8, 1); walk.row < tile.tile_rows; walk.next()) {
    const int row = tile.first_row + walk.row, column = dw * (tile.first_column + 8 * walk.column);
    if (!planes.real_row(row)) continue;
    uint32_t words[4 * dw];
#pragma unroll
    for (int phase = 0; phase < dw; ++phase) {
      const auto* numbers = reinterpret_cast<const uint32_t*>(tile.at(phase, walk.row, 8 * walk.column));
      const Vector<uint32_t, 4> four = load_vector<4>(numbers);
#pragma unroll
      for (int i = 0; i < 4; ++i) words[phase * 4 + i] = four[i];
    }
    uint16_t* to = origin + row * planes.row_step + column;
#pragma unroll
    for (int i = 0; i < 2 * dw; ++i) {
      Vector<uint32_t, 2> pair;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int first = 4 * i + 2 * j, second = first + 1;  // column of all phases
        const uint32_t low = words[first % dw * 4 + first / dw / 2], high = words[second % dw * 4 + second / dw / 2];
        pair[j] = (first / dw % 2 ? low >> 16 : low & 0xffffu) | (second / dw % 2 ? high & 0xffff0000u : high << 16);
      }
      if (static_cast<unsigned>(column + 4 * i) < end) store_vector(reinterpret_cast<uint32_t*>(to + 4 * i), pair);
    }
  }
}

__device__ __forceinline__ void store_band_numbers(const BandTile& tile, uint16_t* origin, const BandPlanes& planes) {
  constexpr int batch = 4;
  for (BandWalk walk(tile.tile_columns, tile.tile_planes); walk.row * batch < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + walk.plane, column = tile.first_column + walk.column;
    const int first = walk.row * batch, row = tile.first_row + first;
    if (static_cast<unsigned>(column) >= planes.width(plane)) continue;
    uint16_t* to = origin + planes.offset(plane, row, column);
    const unsigned char* from = tile.at(plane, first, walk.column);
#pragma unroll
    for (int i = 0; i < batch; ++i, to += planes.row_step, from += tile.pitch) {
      if (first + i < tile.tile_rows && planes.real_row(row + i)) *to = *reinterpret_cast<const uint16_t*>(from);
    }
  }
}

__device__ __forceinline__ void store_band_tile(BandTile tile, uint16_t* origin, BandPlanes planes, BandMove move) {
  switch (move) {
    case BandMove::bytes16:
      store_band_pieces<16>(tile, origin, planes);
      break;
    case BandMove::bytes8:
      store_band_pieces<8>(tile, origin, planes);
      break;
    case BandMove::bytes4:
      store_band_pieces<4>(tile, origin, planes);
      break;
    case BandMove::phases2:
      store_band_phases<2>(tile, origin, planes);
      break;
    case BandMove::phases3:
      store_band_phases<3>(tile, origin, planes);
      break;
    case BandMove::octets:
      store_band_octets(tile, origin, planes);
      break;
    default:
      store_band_numbers(tile, origin, planes);
  }
}

}  // namespace lightsr

// Pieces of 16-bit pictures in shared memory, on their way in and out.
//
// A block works on a few planes: one channel's picture, or the column phases of a dilated one, or neighbouring channels
// of a channels_last one. In each case number (plane p, row r, column i) lies at origin + p + r row_step +
// i column_step, so that the planes are what moves fastest in memory (but for the first case, where there is one). In
// shared memory every plane is a tile of its own: rows of `pitch` bytes, an odd multiple of 16, so that the rows of an
// 8 x 8 matrix, which ldmatrix reads, lie in different banks.
#pragma once

#include "../common/copy_async.cuh"
#include "../common/numbers.cuh"

namespace lightsr {

// How numbers travel: one by one, 2, 4 or 8 neighbours of a row at once, or 8 x 8 numbers of 8 channels and 8 columns.
enum class BandMove : int { numbers, bytes4, bytes8, bytes16, octets };

struct BandPlanes {
  int64_t row_step, column_step;  // in numbers
  int rows, columns;              // rows of each plane, columns of plane 0
  int planes, longer;             // real planes; those from `longer` on have one column less

  // How many columns a row of a plane has: none, where it is no row of a real plane.
  __device__ __forceinline__ unsigned width(int plane, int row) const {
    const bool inside = plane < planes && static_cast<unsigned>(row) < static_cast<unsigned>(rows);
    return inside ? columns - (plane >= longer ? 1 : 0) : 0;
  }
  __device__ __forceinline__ bool real(int plane, int row, int column) const {
    return static_cast<unsigned>(column) < width(plane, row);
  }
  __device__ __forceinline__ int64_t offset(int plane, int row, int column) const {
    return plane + row * row_step + column * column_step;
  }
};

// Where the planes from `first_plane` on have their tiles, and which part of them: tile_rows x tile_columns (a multiple
// of 8) from (first_row, first_column) on, which may be negative.
struct BandTile {
  int start;  // of plane 0, in bytes of the block's shared memory: an address would be one of unknown memory
  int pitch, plane_bytes;
  int first_plane, tile_planes;
  int first_row, first_column;
  int tile_rows, tile_columns;

  __device__ __forceinline__ BandTile of(int plane) const {
    BandTile tile = *this;
    tile.first_plane = plane;
    return tile;
  }
  __device__ __forceinline__ unsigned char* at(int plane, int row, int column) const {
    return shared_memory<unsigned char>() + start + plane * plane_bytes + row * pitch + 2 * column;
  }
};

// The threads of a block share the triples (row, column, plane) among them, plane fastest, without divisions inside.
struct BandWalk {
  int row, column, plane;

  __device__ __forceinline__ BandWalk(int columns, int planes) : columns_(columns), planes_(planes) {
    split(threadIdx.x, row, column, plane);
    split(blockDim.x, row_step_, column_step_, plane_step_);
  }
  __device__ __forceinline__ void next() {
    plane += plane_step_;
    column += column_step_;
    row += row_step_;
    if (plane >= planes_) {
      plane -= planes_;
      ++column;
    }
    if (column >= columns_) {
      column -= columns_;
      ++row;
    }
  }

 private:
  __device__ __forceinline__ void split(unsigned index, int& rows, int& columns, int& planes) const {
    const unsigned width = columns_, depth = planes_, rest = index / depth;
    planes = static_cast<int>(index - rest * depth);
    rows = static_cast<int>(rest / width);
    columns = static_cast<int>(rest % width);
  }
  int columns_, planes_;
  int row_step_, column_step_, plane_step_;
};

// 8 x 8 numbers, or 4 x 8, change rows for columns: word j of column 2 w + h is then word w of row 2 j + h.
template <int rows>
__device__ __forceinline__ void band_transpose(Vector<uint32_t, 4> (&words)[rows]) {
#pragma unroll
  for (int row = 0; row < rows; row += 2) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t first = words[row][w], second = words[row + 1][w];
      words[row][w] = (first & 0xffffu) | second << 16;
      words[row + 1][w] = first >> 16 | (second & 0xffff0000u);
    }
  }
}

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

template <int batch>  // loads under way at once
__device__ __forceinline__ void load_band_numbers(const BandTile& tile, const uint16_t* origin,
                                                  const BandPlanes& planes) {
  BandWalk walk(tile.tile_columns, tile.tile_planes);
  while (walk.row < tile.tile_rows) {
    uint16_t number[batch];
    unsigned char* to[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int plane = tile.first_plane + walk.plane;
      const int row = tile.first_row + walk.row, column = tile.first_column + walk.column;
      to[i] = walk.row < tile.tile_rows ? tile.at(plane, walk.row, walk.column) : nullptr;
      number[i] = 0;
      if (to[i] != nullptr && planes.real(plane, row, column)) number[i] = origin[planes.offset(plane, row, column)];
      walk.next();
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (to[i] != nullptr) *reinterpret_cast<uint16_t*>(to[i]) = number[i];
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
    case BandMove::octets:
      load_band_octets<width>(tile, origin, planes);
      break;
    default:
      load_band_numbers<width / 2>(tile, origin, planes);
  }
  copy_commit();
}

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

__device__ __forceinline__ void store_band_numbers(const BandTile& tile, uint16_t* origin, const BandPlanes& planes) {
  for (BandWalk walk(tile.tile_columns, tile.tile_planes); walk.row < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + walk.plane;
    const int row = tile.first_row + walk.row, column = tile.first_column + walk.column;
    if (!planes.real(plane, row, column)) continue;
    origin[planes.offset(plane, row, column)] =
        *reinterpret_cast<const uint16_t*>(tile.at(plane, walk.row, walk.column));
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
    case BandMove::octets:
      store_band_octets(tile, origin, planes);
      break;
    default:
      store_band_numbers(tile, origin, planes);
  }
}

}  // namespace lightsr

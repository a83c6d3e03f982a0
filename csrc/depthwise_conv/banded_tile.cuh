// Pieces of 16-bit pictures in shared memory, on their way in and out.
//
// A block works on a few planes: one channel's picture, or the column phases of a dilated one, or neighbouring channels
// of a channels_last one. In each case number (plane p, row r, column i) lies at origin + p + r row_step +
// i column_step, so that the planes are what moves fastest in memory (but for the first case, where there is one). In
// shared memory every plane is a tile of its own: rows of `pitch` bytes, an odd multiple of 16, so that the rows of an
// 8 x 8 matrix, which ldmatrix reads, lie in different banks.
#pragma once

#include "../common/numbers.cuh"

namespace lightsr {

// How numbers travel: one by one, 2, 4 or 8 neighbours of a row at once, 8 columns of all of 2 or 3 column phases, or
// 8 columns of 8 channels.
enum class BandMove : int { numbers, bytes4, bytes8, bytes16, phases2, phases3, octets };

struct BandPlanes {
  int64_t row_step, column_step;  // in numbers
  int rows, columns;              // rows of each plane, columns of plane 0
  int planes, longer;             // real planes; those from `longer` on have one column less

  __device__ __forceinline__ bool real_row(int row) const {
    return static_cast<unsigned>(row) < static_cast<unsigned>(rows);
  }
  // How many columns a plane has, or a row of it: none, if it is not real.
  __device__ __forceinline__ unsigned width(int plane) const {
    return plane < planes ? columns - (plane >= longer ? 1 : 0) : 0;
  }
  __device__ __forceinline__ unsigned width(int plane, int row) const { return real_row(row) ? width(plane) : 0; }
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

}  // namespace lightsr

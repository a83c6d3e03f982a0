// Tiles of a plane in shared memory, dilation undone: a convolution with taps dh rows and dw columns apart is, for each
// of the dh dw phases (y mod dh, x mod dw), a dense one over the pixels of that phase. A tile holds `rows` rows of one
// row phase and `columns` columns of each of `phases` neighbouring column phases, phase after phase within a row, so
// that neighbouring pixels of the picture are read together however far the taps lie apart. What lies outside the
// picture is zero.
#pragma once

#include "../common/copy_async.cuh"
#include "../common/numbers.cuh"

namespace lightsr {

// How a launch sees its pictures: dh and dw no larger than h and w; h = full_rows dh + more_rows, and so w.
struct Lattice {
  int64_t dh, dw, full_rows, more_rows, full_columns, more_columns;
  int64_t row_stride, column_stride;  // elements from a pixel to the one below and to the one beside it
};

inline Lattice lattice_of(int64_t c, int64_t h, int64_t w, int64_t dilation_h, int64_t dilation_w, bool channels_last) {
  const int64_t dh = smaller(dilation_h, h), dw = smaller(dilation_w, w);
  return {dh, dw, h / dh, h % dh, w / dw, w % dw, channels_last ? w * c : w, channels_last ? c : int64_t(1)};
}

// The first pixel of a tile: row v dh + row_phase, column u dw + column_phase; it may lie outside the picture.
struct Corner {
  int64_t v, u, row_phase, column_phase;
};

// Of a tile in shared memory, in elements.
struct TileShape {
  int rows, columns, phases;
  int phase_pitch, pitch;  // from a phase to the next, from a row to the next
};

// Walks a tile in the order of the picture's memory, `step` pixels at a time, without a division a step.
class Walk {
 public:
  __device__ Walk(int rows, int columns, int phases, int first, int step)
      : rows_(rows), columns_(columns), phases_(phases) {
    phase = first % phases, u = first / phases % columns, row = first / phases / columns;
    phase_step_ = step % phases, u_step_ = step / phases % columns, row_step_ = step / phases / columns;
  }
  __device__ bool inside() const { return row < rows_; }
  __device__ void next() {
    phase += phase_step_, u += u_step_, row += row_step_;
    if (phase >= phases_) phase -= phases_, ++u;
    if (u >= columns_) u -= columns_, ++row;
  }
  int row, u, phase;

 private:
  int rows_, columns_, phases_, phase_step_, u_step_, row_step_;
};

// Which pixels of a tile lie in the picture, and where.
class Reach {
 public:
  __device__ Reach(const Lattice& lattice, const Corner& corner) {
    row_first_ = whole(-corner.v);
    row_end_ = whole(lattice.full_rows + (corner.row_phase < lattice.more_rows) - corner.v);
    u_first_ = whole(-corner.u);
    u_end_ = whole(lattice.full_columns - corner.u);
    longer_ = whole(lattice.more_columns - corner.column_phase);
    phases_ = whole(lattice.dw - corner.column_phase);
    row_step_ = lattice.dh * lattice.row_stride;
    u_step_ = lattice.dw * lattice.column_stride;
    phase_step_ = lattice.column_stride;
    start_ = corner.v * row_step_ + corner.row_phase * lattice.row_stride + corner.u * u_step_ +
             corner.column_phase * phase_step_;
  }
  __device__ bool inside(int row, int u, int phase) const {
    return row >= row_first_ && row < row_end_ && u >= u_first_ && u < u_end_ + (phase < longer_) && phase < phases_;
  }
  // In elements from the start of the plane.
  __device__ int64_t place(int row, int u, int phase) const {
    return start_ + row * row_step_ + u * u_step_ + phase * phase_step_;
  }

 private:
  // Tiles are far smaller than the bounds.
  __device__ static int whole(int64_t x) {
    return static_cast<int>(larger<int64_t>(-(1 << 30), smaller<int64_t>(x, 1 << 30)));
  }
  int row_first_, row_end_, u_first_, u_end_, longer_, phases_;
  int64_t row_step_, u_step_, phase_step_, start_;
};

__device__ __forceinline__ void copy_number(float* to, const float* from, bool real) {
  copy_async_4(to, from, real);
}
__device__ __forceinline__ void copy_number(double* to, const double* from, bool real) {
  copy_async_8(to, from, real);
}
template <class T>
__device__ __forceinline__ void copy_number(float* to, const T* from, bool real) {
  *to = real ? to_sum(*from) : 0.0f;
}

__device__ __forceinline__ void copy_four(float* to, const float* from, bool real) {
  copy_async_16(to, from, real);
}
__device__ __forceinline__ void copy_four(double* to, const double* from, bool real) {
  copy_async_16(to, from, real);
  copy_async_16(to + 2, from + 2, real);
}
template <class T>
__device__ __forceinline__ void copy_four(float* to, const T* from, bool real) {
  Vector<float, 4> wide = {{0.0f, 0.0f, 0.0f, 0.0f}};
  if (real) {
    const auto narrow = load_vector<4>(from);
    for (int i = 0; i < 4; ++i) wide[i] = to_sum(narrow[i]);
  }
  store_vector(to, wide);
}

template <class T>
__device__ __forceinline__ void store_four(T* to, const T (&four)[4]) {
  constexpr int by = sizeof(T) < 8 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < 4; i += by) {
    Vector<T, by> some;
#pragma unroll
    for (int j = 0; j < by; ++j) some[j] = four[i + j];
    store_vector(to + i, some);
  }
}

// Starts filling the tile from a plane, as thread `first` of `step`; the bytes are there after a wait and a barrier.
template <class T>
__device__ __forceinline__ void load_pixels(Sum<T>* tile, const TileShape& shape, const T* plane, const Reach& reach,
                                            int first, int step) {
#pragma unroll 2
  for (Walk at(shape.rows, shape.columns, shape.phases, first, step); at.inside(); at.next()) {
    const bool real = reach.inside(at.row, at.u, at.phase);
    const T* from = real ? plane + reach.place(at.row, at.u, at.phase) : plane;
    copy_number(tile + at.row * shape.pitch + at.phase * shape.phase_pitch + at.u, from, real);
  }
}

// The same by fours, for columns that lie side by side: the width, the corner's u and the columns multiples of 4, the
// plane at a multiple of four elements (of 16 bytes at most).
template <class T>
__device__ __forceinline__ void load_fours(Sum<T>* tile, const TileShape& shape, const T* plane, const Reach& reach,
                                           int first, int step) {
#pragma unroll 2
  for (Walk at(shape.rows, shape.columns / 4, 1, first, step); at.inside(); at.next()) {
    const bool real = reach.inside(at.row, 4 * at.u, 0);
    const T* from = real ? plane + reach.place(at.row, 4 * at.u, 0) : plane;
    copy_four(tile + at.row * shape.pitch + 4 * at.u, from, real);
  }
}

template <class T>
__host__ inline bool aligned_by_fours(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) < 4 ? 4 * sizeof(T) : 16) == 0;
}

}  // namespace lightsr

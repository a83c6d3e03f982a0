// The gradient of the weight on the CPU: every tap's sum of grad times x over the picture.
//
// As in cpu_forward.h, rows a dilation apart form pictures of their own. A unit of work is a band of rows and a segment
// of columns of x in one of these, for one channel or one vector of channels; the rows of the gradient that its taps
// reach are read beside it, so that nothing is summed twice and rows outside the picture are skipped. All taps' sums
// over a unit are taken in float32 (float64), lane by lane; units are added up in float64. How units make up tasks, and
// so the order of all additions, depends on the sizes alone.
#pragma once

#include <memory>

#include "../common/parallel.h"
#include "arguments.h"
#include "cpu_correlate.h"
#include "cpu_rows.h"

namespace lightsr {

constexpr int64_t unit_bytes = 256 * 1024;  // of a unit's rows: some of the second-level cache
constexpr int64_t most_terms = 512;         // about so many are added up before they are added to the other sums
constexpr int64_t most_tasks = 512;         // about so many: enough for any machine's threads, few enough to add up

// Tap rows and columns in one go: their sums, the columns' vectors of x and one of the gradient fill the registers.
constexpr int most_tap_rows = level::registers == 32 ? 5 : 4;
constexpr int most_tap_columns = level::registers == 32 ? 5 : 3;

template <class T>
constexpr int most_rows_of = std::is_same_v<T, double> ? 3 : most_tap_rows;  // float64 is seldom: less to compile
template <class T>
constexpr int most_columns_of = std::is_same_v<T, double> ? 3 : most_tap_columns;

template <class T, int KY = most_rows_of<T>, int KX = most_columns_of<T>>
void correlate(const Correlation<T>& job, int ky, int kx) {
  if (ky < KY) {
    if constexpr (KY > 1) correlate<T, KY - 1, KX>(job, ky, kx);
  } else if (kx < KX) {
    if constexpr (KX > 1) correlate<T, KY, KX - 1>(job, ky, kx);
  } else {
    correlate<T, KY, KX>(job);
  }
}

template <class T, class S, bool PerLane>  // sums in T of numbers in S
class WeightGradient {
 public:
  explicit WeightGradient(const DepthwiseConvWeight& call) : call(call) {
    // Taps further out than the picture is wide never meet it: their gradient is 0.
    kh = 2 * int(std::min<int64_t>(call.kh / 2, (call.h - 1) / call.dh)) + 1;
    kw = 2 * int(std::min<int64_t>(call.kw / 2, (call.w - 1) / call.dw)) + 1;
    groups = PerLane ? (call.c + size - 1) / size : call.c;
    phases = std::min(call.dh, call.h);
    rows = (call.h + phases - 1) / phases;
    around = (kw - 1) * call.dw;
    sums = int64_t(kh) * kw + 1;
    plan();
  }

  void run() {
    int64_t each_task = sums * each;
    std::unique_ptr<double[]> partial(new double[parts * groups * each_task]);
    run_tasks(parts * groups, [&](int64_t task) {
      int64_t group = task % groups, part = task / groups;
      double* to = partial.get() + task * each_task;
      std::fill(to, to + each_task, 0.0);
      for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) run_unit(to, group, unit);
    });
    for (int64_t c = 0; c < call.c; ++c) finish(partial.get(), c);
  }

 private:
  static constexpr int size = Vec<T>::size, each = PerLane ? size : 1, along = PerLane ? 1 : size;

  void plan() {
    int64_t budget = unit_bytes / int64_t(sizeof(T)) / each;  // rows times columns
    int64_t least = std::min<int64_t>(rows, std::max(kh, 16));
    segment_width = std::min(call.w, std::max<int64_t>(64, budget / (2 * least + kh) - around) / along * along);
    segments = (call.w + segment_width - 1) / segment_width;
    columns = (segment_width + along - 1) / along * along;
    x_pitch = (((columns + around) * each + size - 1) / size | 1) * size;
    grad_pitch = ((columns * each + size - 1) / size | 1) * size;

    band_rows = std::max(least, (unit_bytes / int64_t(sizeof(T)) - kh * grad_pitch) / (x_pitch + grad_pitch));
    while (band_rows > 16 && call.n * phases * segments * ((rows + band_rows - 1) / band_rows) * groups < 32)
      band_rows = (band_rows + 1) / 2;
    bands = (rows + band_rows - 1) / band_rows;
    band_rows = (rows + bands - 1) / bands;
    units = call.n * phases * segments * bands;
    parts = std::min(units, (most_tasks + groups - 1) / groups);
  }

  Plane plane(int64_t n, int64_t group, int64_t phase) const {
    if (PerLane)
      return {(n * call.h + phase) * call.w * call.c + group * size, call.dh * call.w * call.c, call.c,
              int(std::min<int64_t>(size, call.c - group * size))};
    return {((n * call.c + group) * call.h + phase) * call.w, call.dh * call.w, 1, 0};
  }

  // Adds the unit's sums to those at `to`, [KH][KW] and the bias's, each a number or a vector.
  void run_unit(double* to, int64_t group, int64_t unit) const {
    int64_t segment = unit % segments, band = unit / segments % bands, phase = unit / (segments * bands) % phases;
    Plane at = plane(unit / (segments * bands * phases), group, phase);
    int64_t height = (call.h - phase + call.dh - 1) / call.dh;
    int64_t begin = band * band_rows, end = std::min(height, begin + band_rows);
    int64_t left = segment * segment_width, width = std::min(call.w - left, segment_width);
    if (begin >= end) return;

    T* total = scratch<T>(sums * size + band_rows * x_pitch + (band_rows + kh - 1) * grad_pitch);
    T *x = total + sums * size, *grad = x + band_rows * x_pitch;
    std::fill(total, total + sums * size, T(0));
    for (int64_t y = begin; y < end; ++y)
      read_row(x + (y - begin) * x_pitch, static_cast<const S*>(call.x), at, y, left - around / 2, columns + around,
               call.w);
    int64_t first = std::max<int64_t>(0, begin - kh / 2), last = std::min(height, end + kh / 2);
    for (int64_t y = first; y < last; ++y)
      read_row(grad + (y - first) * grad_pitch, static_cast<const S*>(call.grad), at, y, left, columns, left + width);

    Correlation<T> job{.x_pitch = x_pitch, .step = call.dw * each, .grad_pitch = grad_pitch};
    job.vectors = PerLane ? width : width / size, job.tail = PerLane ? 0 : int(width % size), job.sums_row = kw * size;
    // Row y of x and row y + kh / 2 - i of the gradient make up tap row i.
    auto run = [&](int i, int many, int j, int wide, int64_t from, int64_t until) {
      job.sums = total + (i * kw + j) * size;
      for (; from < until; from += job.rows) {
        job.x = x + (from - begin) * x_pitch + j * job.step;
        job.grad = grad + (from + kh / 2 - i - first) * grad_pitch;
        job.rows = std::min(until - from, std::max<int64_t>(1, most_terms / (job.vectors + 1)));
        correlate<T>(job, many, wide);
      }
    };
    int down = (kh + most_rows_of<T> - 1) / most_rows_of<T>;
    int across = (kw + most_columns_of<T> - 1) / most_columns_of<T>;
    for (int a = 0; a < down; ++a) {
      int i = kh * a / down, many = kh * (a + 1) / down - i;
      int64_t from = std::max<int64_t>(begin, i + many - 1 - kh / 2);  // rows that all of these tap rows take
      int64_t until = std::max(from, std::min<int64_t>(end, height + i - kh / 2));
      for (int b = 0; b < across; ++b) {
        int j = kw * b / across, wide = kw * (b + 1) / across - j;
        run(i, many, j, wide, from, until);
        for (int each_row = i; each_row < i + many; ++each_row) {
          int64_t start = std::max<int64_t>(begin, each_row - kh / 2);
          int64_t stop = std::min<int64_t>(end, height + each_row - kh / 2);
          run(each_row, 1, j, wide, start, std::min(from, stop));
          run(each_row, 1, j, wide, std::max(until, start), stop);
        }
      }
    }
    if (call.grad_bias) add_grads(total + (sums - 1) * size, grad + (begin - first) * grad_pitch, end - begin);

    for (int64_t i = 0; i < sums; ++i) {
      if (PerLane)
        for (int lane = 0; lane < each; ++lane) to[i * each + lane] += total[i * size + lane];
      else
        to[i] += sum(Vec<T>::load(total + i * size));
    }
  }

  void add_grads(T* to, const T* grad, int64_t many) const {
    Vec<T> total = Vec<T>::fill(0);
    for (int64_t y = 0; y < many; ++y) {
      Vec<T> row = Vec<T>::fill(0);
      for (int64_t v = 0; v < columns * each; v += size) row = row + Vec<T>::load(grad + y * grad_pitch + v);
      total = total + row;
    }
    total.store(to);
  }

  void finish(const double* partial, int64_t c) const {
    auto add = [&](int64_t i) {
      double total = 0;
      for (int64_t part = 0; part < parts; ++part)
        total += partial[((part * groups + c / each) * sums + i) * each + c % each];
      return Vec<T>::fill(T(total));
    };
    S* to = static_cast<S*>(call.grad_weight) + c * call.kh * call.kw;
    for (int i = 0; i < call.kh; ++i)
      for (int j = 0; j < call.kw; ++j) {
        int row = i - call.kh / 2 + kh / 2, column = j - call.kw / 2 + kw / 2;
        bool reached = 0 <= row && row < kh && 0 <= column && column < kw;
        (reached ? add(row * kw + column) : Vec<T>::fill(0)).store(to + i * call.kw + j, 1);
      }
    if (call.grad_bias) add(sums - 1).store(static_cast<S*>(call.grad_bias) + c, 1);
  }

  const DepthwiseConvWeight& call;
  int kh, kw;
  int64_t groups, phases, rows, around, sums;  // sums: one for each tap and one for the bias
  int64_t segment_width, segments, columns, x_pitch, grad_pitch, band_rows, bands, units, parts;
};

}  // namespace lightsr

// All taps' sums over one unit of cpu_weight.h: the filter in blocks of rows and columns whose sums fit the registers.
//
// Row y of x and row y + KH / 2 - i of the gradient make up tap row i. A block runs over the rows of x that all of its
// tap rows take; the few others, near the upper and lower end of the picture, come row by row, with the tap rows that
// take them.
#pragma once

#include <algorithm>

#include "cpu_correlate.h"

namespace lightsr {

constexpr int64_t most_terms = 512;  // about so many are added up before they are added to the other sums

// Tap rows and columns in one go: their sums, the columns' vectors of x and one of the gradient fill the registers.
constexpr int most_tap_rows = level::registers == 32 ? 5 : 4;
constexpr int most_tap_columns = level::registers == 32 ? 5 : 3;

template <class T>
constexpr int most_rows_of = std::is_same_v<T, double> ? 3 : most_tap_rows;  // float64 is seldom: less to compile
template <class T>
constexpr int most_columns_of = std::is_same_v<T, double> ? 3 : most_tap_columns;

// Seven rows are one block, of fewer columns: two blocks of 3 and 4 rows have too few sums to keep the processor busy.
constexpr int tall_rows = level::registers == 32 ? 7 : 0, tall_columns = 3;

template <class T, int KY = most_rows_of<T>, int KX = most_columns_of<T>>
void correlate(const Correlation<T>& job, int ky, int kx) {
  if constexpr (tall_rows > KY && KX > tall_columns && !std::is_same_v<T, double>)
    if (ky == tall_rows) return correlate<T, tall_rows, tall_columns>(job, ky, kx);
  if (ky < KY) {
    if constexpr (1 < KY && KY != tall_rows) correlate<T, KY - 1, KX>(job, ky, kx);
  } else if (kx < KX) {
    if constexpr (KX > 1) correlate<T, KY, KX - 1>(job, ky, kx);
  } else {
    correlate<T, KY, KX>(job);
  }
}

template <class T>
struct WeightUnit {
  // At row begin and the unit's first column: x as the leftmost tap sees it, the gradient as it is, and what comes
  // next. `sums` are those of all taps.
  Correlation<T> first;
  int64_t begin, end, height;  // rows of x, of those of the picture
  int kh, kw;

  void run() {
    bool tall = kh == tall_rows && !std::is_same_v<T, double>;
    int down = tall ? 1 : (kh + most_rows_of<T> - 1) / most_rows_of<T>;
    int columns = tall ? tall_columns : most_columns_of<T>, across = (kw + columns - 1) / columns;
    int64_t passes = 1;  // that fetch
    while (2 * passes <= std::min(down * across, 8)) passes *= 2;
    Soon soon = first.soon, nothing = {.x = soon.x, .grad = soon.x};
    soon.shared = passes - 1;
    for (int a = 0, pass = 0; a < down; ++a)
      for (int b = 0; b < across; ++b, ++pass) {
        int i = kh * a / down, j = kw * b / across;
        soon.turn_x = pass, soon.turn_grad = pass ^ passes / 2;
        first.soon = pass < passes ? soon : nothing;
        run_block(i, kh * (a + 1) / down - i, j, kw * (b + 1) / across - j);
      }
  }

 private:
  void run_block(int i, int many, int j, int wide) {
    int64_t from = std::max<int64_t>(begin, i + many - 1 - kh / 2);
    int64_t until = std::max(from, std::min<int64_t>(end, height + i - kh / 2));
    run_rows(i, many, j, wide, from, until);
    first.soon = {.x = first.soon.x, .grad = first.soon.x};
    const auto edge = [&](int64_t y) {
      const int64_t low = std::max<int64_t>(i, y + kh / 2 - height + 1);
      const int64_t count = std::min<int64_t>(i + many, y + kh / 2 + 1) - low;
      const int64_t parts = (count + most_rows_of<T> - 1) / most_rows_of<T>;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t row = low + count * part / parts, stop = low + count * (part + 1) / parts;
        run_rows(int(row), int(stop - row), j, wide, y, y + 1);
      }
    };
    for (int64_t y = begin; y < std::min(from, end); ++y) edge(y);
    for (int64_t y = until; y < end; ++y) edge(y);
  }

  void run_rows(int i, int many, int j, int wide, int64_t from, int64_t until) const {
    Correlation<T> job = first;
    job.sums += i * job.sums_row + j * Vec<T>::size;
    int64_t rows = std::max<int64_t>(1, most_terms / (job.vectors + 1));
    for (; from < until; from += job.rows) {
      int64_t down = from - begin;
      job.x = first.x + down * job.x_pitch + j * job.step;
      job.grad = first.grad + (down + kh / 2 - i) * job.grad_pitch;
      job.soon.x = first.soon.x + down * job.soon.row;
      job.soon.grad = first.soon.grad + down * job.soon.row;
      job.rows = std::min(until - from, rows);
      correlate<T>(job, many, wide);
    }
  }
};

// The sum of `rows` rows of the gradient, added to one vector.
template <class T>
void add_grads(T* to, const Correlation<T>& job, int64_t rows) {
  Vec<T> total = Vec<T>::load(to);
  for (int64_t y = 0; y < rows; ++y) {
    Vec<T> sum = Vec<T>::fill(0);
    const T* from = job.grad + y * job.grad_pitch;
    for (int64_t v = 0; v < job.vectors; ++v, from += Vec<T>::size) sum = sum + Vec<T>::load(from);
    if (job.tail) sum = sum + Vec<T>::load(from, job.tail);
    total = total + sum;
  }
  total.store(to);
}

}  // namespace lightsr

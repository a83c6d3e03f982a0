// The gradient of the weight on the CPU: every tap's sum of grad times x over the picture.
//
// As in cpu_forward.h, rows a dilation apart form pictures of their own. A unit of work is a band of rows and a segment
// of columns of x in one of these, for one channel or one vector of channels; the rows of the gradient that its taps
// reach are read beside it, so that nothing is summed twice and rows outside the picture are skipped. Units follow each
// other down the picture: rows of the gradient that two of them share stay in the buffer, and what the next one reads
// is fetched into the cache meanwhile. Rows of the gradient that need no converting are taken from where they stand.
//
// All taps' sums over a few units are taken in float32 (float64), lane by lane; these are added up in float64. How
// units make up tasks, and so the order of all additions, depends on the sizes alone.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>

#include "../common/parallel.h"
#include "../common/round.h"
#include "arguments.h"
#include "cpu_rows.h"
#include "cpu_weight_unit.h"

namespace lightsr {

constexpr int64_t unit_bytes = 128 * 1024;  // of a unit's rows: a small part of the second-level cache
constexpr int64_t worth_sharing = 1 << 16;  // so many sums are worth waking the threads once more
constexpr int64_t most_sums = 2048;         // of a lane: about so many are added up before they are added in float64
constexpr int64_t most_tasks = 128;         // about so many: enough for many threads, and several units for each

template <class T, class S, bool PerLane>  // sums in T of numbers in S
class WeightGradient {
 public:
  explicit WeightGradient(const DepthwiseConvWeight& call) : call(call) {
    // Taps further out than the picture is wide never meet it: their gradient is 0.
    kh = 2 * int(std::min<int64_t>(call.kh / 2, (call.h - 1) / call.dh)) + 1;
    kw = 2 * int(std::min<int64_t>(call.kw / 2, (call.w - 1) / call.dw)) + 1;
    groups = PerLane ? (call.c + size - 1) / size : call.c;
    group_run = std::min<int64_t>(groups, each_line);
    runs = (groups + group_run - 1) / group_run;
    phases = std::min(call.dh, call.h);
    rows = (call.h + phases - 1) / phases;
    around = (kw - 1) * call.dw;
    sums = int64_t(kh) * kw + 1;
    plan();
  }

  void run() {
    std::unique_ptr<double[]> partial(new double[parts * groups * sums * each]);
    int64_t tasks = parts * runs;
    run_tasks(tasks, [&](int64_t task) { run_task(partial.get(), task, std::min(task + 1, tasks - 1)); });
    if (parts * groups * sums * each < worth_sharing)
      for (int64_t group = 0; group < groups; ++group) finish(partial.get(), group);
    else
      run_tasks(groups, [&](int64_t group) { finish(partial.get(), group); });
  }

 private:
  static constexpr int size = Vec<T>::size, each = PerLane ? size : 1, along = PerLane ? 1 : size;
  static constexpr bool in_place = std::is_same_v<T, S> && !PerLane;
  // Vectors of channels in one cache line: a task does as many in turn.
  static constexpr int each_line = PerLane && size * sizeof(S) < 64 ? 64 / (size * sizeof(S)) : 1;

  struct Unit {
    int64_t n, phase, left, width, height, begin, end;  // columns left to left + width, rows begin to end of height
  };
  struct Buffers {
    T *sums, *x, *grad;
  };

  void plan() {
    int64_t budget = unit_bytes / int64_t(sizeof(T)) / each;  // rows times columns
    int64_t least = std::min<int64_t>(rows, std::max(kh, 16));
    segment_width = std::min(call.w, std::max<int64_t>(64, budget / (2 * least + kh) - around) / along * along);
    segments = (call.w + segment_width - 1) / segment_width;
    columns = (segment_width + along - 1) / along * along;
    x_pitch = round_up_odd((columns + around) * each, size);
    grad_pitch = round_up_odd(columns * each, size);

    band_rows = std::max(least, (unit_bytes / int64_t(sizeof(T)) - kh * grad_pitch) / (x_pitch + grad_pitch));
    while (band_rows > 16 && call.n * phases * segments * ((rows + band_rows - 1) / band_rows) * runs < 32)
      band_rows = (band_rows + 1) / 2;
    bands = (rows + band_rows - 1) / band_rows;
    band_rows = (rows + bands - 1) / bands;
    units = call.n * phases * segments * bands;
    parts = std::min(units, (most_tasks + runs - 1) / runs);
  }

  Unit unit_at(int64_t index) const {
    int64_t band = index % bands, segment = index / bands % segments, phase = index / (segments * bands) % phases;
    int64_t height = (call.h - phase + call.dh - 1) / call.dh, left = segment * segment_width;
    return {.n = index / (segments * bands * phases),
            .phase = phase,
            .left = left,
            .width = std::min(call.w - left, segment_width),
            .height = height,
            .begin = std::min(height, band * band_rows),
            .end = std::min(height, (band + 1) * band_rows)};
  }

  Plane plane(int64_t n, int64_t group, int64_t phase) const {
    if (PerLane)
      return {(n * call.h + phase) * call.w * call.c + group * size, call.dh * call.w * call.c, call.c,
              int(std::min<int64_t>(size, call.c - group * size))};
    return {((n * call.c + group) * call.h + phase) * call.w, call.dh * call.w, 1, 0};
  }

  // One part of the units for one run of groups. `later` is the task that this thread is likely to do next.
  void run_task(double* partial, int64_t task, int64_t later) const {
    int64_t begin = units * (task / runs) / parts, end = units * (task / runs + 1) / parts;
    int64_t group = task % runs * group_run, many = std::min(groups - group, group_run), added = 0;
    int64_t grad_rows = in_place ? 0 : band_rows + kh - 1;
    int64_t each_group = sums * size + band_rows * x_pitch + grad_rows * grad_pitch;
    T* memory = scratch<T>(many * each_group);
    double* to = partial + (task / runs * groups + group) * sums * each;
    std::fill(to, to + many * sums * each, 0.0);
    for (int64_t i = 0; i < many; ++i) std::fill_n(memory + i * each_group, sums * size, T(0));

    Unit before{.n = -1};
    for (int64_t index = begin; index < end; ++index) {
      bool last = index + 1 == end;
      Unit unit = unit_at(index), next = unit_at(last ? units * (later / runs) / parts : index + 1);
      Soon soon = fetch_of(next, plane(next.n, last ? later % runs * group_run : group, next.phase));
      bool follows = before.n == unit.n && before.phase == unit.phase && before.left == unit.left;
      added += (unit.end - unit.begin) * ((unit.width + along - 1) / along);
      for (int64_t i = 0; i < many; ++i) {
        T *sum = memory + i * each_group, *x = sum + sums * size;
        if (unit.begin < unit.end)
          run_unit({sum, x, x + band_rows * x_pitch}, plane(unit.n, group + i, unit.phase), unit,
                   follows ? &before : nullptr, soon);
        soon = {.x = soon.x, .grad = soon.x};  // the others share its lines
        if (last || added >= most_sums) flush(to + i * sums * each, sum);
      }
      if (added >= most_sums) added = 0;
      before = unit;
    }
  }

  // What a unit reads; of the gradient, what the unit above it has not read.
  Soon fetch_of(const Unit& unit, const Plane& at) const {
    int64_t place = at.start + unit.begin * at.row + unit.left * at.column;
    return {.x = reinterpret_cast<const char*>(static_cast<const S*>(call.x) + place),
            .grad = reinterpret_cast<const char*>(static_cast<const S*>(call.grad) + place + kh / 2 * at.row),
            .row = at.row * int64_t(sizeof(S)),
            .vector = along * at.column * int64_t(sizeof(S))};
  }

  void run_unit(const Buffers& buffers, const Plane& at, const Unit& unit, const Unit* before, const Soon& soon) const {
    for (int64_t y = unit.begin; y < unit.end; ++y)
      read_row(buffers.x + (y - unit.begin) * x_pitch, static_cast<const S*>(call.x), at, y, unit.left - around / 2,
               columns + around, call.w);
    Correlation<T> first{.x = buffers.x, .x_pitch = x_pitch, .step = call.dw * each, .sums = buffers.sums};
    if constexpr (in_place) {
      first.grad = static_cast<const S*>(call.grad) + at.start + unit.begin * at.row + unit.left;
      first.grad_pitch = at.row;
    } else {
      read_grad(buffers.grad, at, unit, before);
      first.grad = buffers.grad + kh / 2 * grad_pitch;
      first.grad_pitch = grad_pitch;
    }
    first.vectors = PerLane ? unit.width : unit.width / size, first.tail = PerLane ? 0 : int(unit.width % size);
    first.sums_row = kw * size, first.soon = soon;
    WeightUnit<T>{first, unit.begin, unit.end, unit.height, kh, kw}.run();
    if (call.grad_bias) add_grads(buffers.sums + (sums - 1) * size, first, unit.end - unit.begin);
  }

  // Rows begin - kh / 2 to end + kh / 2, as far as there are, of which the buffer may hold some from the unit before.
  void read_grad(T* buffer, const Plane& at, const Unit& unit, const Unit* before) const {
    int64_t top = unit.begin - kh / 2, y = std::max<int64_t>(0, top), last = std::min(unit.height, unit.end + kh / 2);
    int64_t had = before ? std::min(unit.height, before->end + kh / 2) : 0;
    if (had > y) {
      T* to = buffer + (y - top) * grad_pitch;
      std::memmove(to, to + (unit.begin - before->begin) * grad_pitch, (had - y) * grad_pitch * sizeof(T));
      y = had;
    }
    for (; y < last; ++y)
      read_row(buffer + (y - top) * grad_pitch, static_cast<const S*>(call.grad), at, y, unit.left, columns,
               unit.left + unit.width);
  }

  // Adds the sums, [KH][KW] and the bias's, to those in float64, each a number or a vector; they are 0 then.
  void flush(double* to, T* from) const {
    for (int64_t i = 0; i < sums; ++i) {
      if (PerLane)
        for (int lane = 0; lane < each; ++lane) to[i * each + lane] += from[i * size + lane];
      else
        to[i] += sum(Vec<T>::load(from + i * size));
    }
    std::fill_n(from, sums * size, T(0));
  }

  // Adds the parts up, in the first of them, and writes one group's gradients.
  void finish(double* partial, int64_t group) const {
    double* total = partial + group * sums * each;
    for (int64_t part = 1; part < parts; ++part) {
      const double* other = total + part * groups * sums * each;
      for (int64_t i = 0; i < sums * each; ++i) total[i] += other[i];
    }
    for (int lane = 0; lane < each && group * each + lane < call.c; ++lane) write(total + lane, group * each + lane);
  }

  void write(const double* from, int64_t c) const {
    auto store = [](S* to, double value) { Vec<T>::fill(T(value)).store(to, 1); };
    S* to = static_cast<S*>(call.grad_weight) + c * call.kh * call.kw;
    for (int i = 0; i < call.kh; ++i)
      for (int j = 0; j < call.kw; ++j) {
        int row = i - call.kh / 2 + kh / 2, column = j - call.kw / 2 + kw / 2;
        bool reached = 0 <= row && row < kh && 0 <= column && column < kw;
        double value = reached ? from[(row * kw + column) * each] : 0;
        store(to + i * call.kw + j, std::isfinite(value) ? value : again(c, i, j));
      }
    if (call.grad_bias) store(static_cast<S*>(call.grad_bias) + c, from[(sums - 1) * each]);
  }

  // A tap summed up once more, only where pixels meet inside the picture: the sums above multiply with the zeros beside
  // it too, and infinity times zero is no number, which would get into taps that never touch the infinite pixel.
  double again(int64_t c, int i, int j) const {
    const int64_t down = (i - call.kh / 2) * call.dh, right = (j - call.kw / 2) * call.dw;
    const int64_t step = call.channels_last ? call.c : 1, left = std::max<int64_t>(0, -right);
    const int64_t end = std::min(call.w, call.w - right), many = call.channels_last ? 1 : size;
    double total = 0;
    for (int64_t n = 0; n < call.n; ++n) {
      const int64_t plane = call.channels_last ? n * call.h * call.w * call.c + c : (n * call.c + c) * call.h * call.w;
      for (int64_t row = std::max<int64_t>(0, -down); row < std::min(call.h, call.h - down); ++row) {
        const S* grad = static_cast<const S*>(call.grad) + plane + row * call.w * step;
        const S* x = static_cast<const S*>(call.x) + plane + ((row + down) * call.w + right) * step;
        for (int64_t column = left; column < end; column += many) {
          const int some = static_cast<int>(std::min(many, end - column));
          total += sum(Vec<T>::load(grad + column * step, some) * Vec<T>::load(x + column * step, some));
        }
        if (std::isnan(total)) return total;
      }
    }
    return total;
  }

  const DepthwiseConvWeight& call;
  int kh, kw;
  int64_t groups, group_run, runs, phases, rows, around, sums;  // sums: one for each tap and one for the bias
  int64_t segment_width, segments, columns, x_pitch, grad_pitch, band_rows, bands, units, parts;
};

}  // namespace lightsr

// The first pass of multi_attention: of each branch the gates of all pixels and the means of z gate over each picture.
//
// A task takes a band of rows of one branch. z of some rows at a time stays in a ring of rows in the L2 cache, together
// with as many rows ahead as the filter reads: so the gates of these rows can be made, and z gate be summed, of what is
// still there. Only x is read, once but for the rows where bands meet.
//
// Sums are of pieces of rows that sizes alone decide; how many bands there are changes no result.
#pragma once

#include "../instance_norm_attention/cpu_forward.h"
#include "cpu_lit.h"

namespace lightsr::multi {

template <class T>
class Gates {
  using S = Wide<T>;
  using V = Vec<S>;
  using Filter = instance_norm_attention::GateFilter<S>;

  // The memory of a task: x of a block, z of a chunk of rows and those ahead, mean and maximum of a block, the same of
  // rows in zeros, sums of a piece.
  struct Buffers {
    Operand<T> x;
    Rows<S> z;
    S *mean, *most, *padded, *sums;
    int64_t bytes;

    Buffers(char* from, bool planes, int64_t channels, int64_t block, int64_t ring, int64_t padded)
        : Buffers(Arena(from), from, planes, channels, block, ring, padded) {}
    Buffers(Arena arena, char* from, bool planes, int64_t channels, int64_t block, int64_t ring, int64_t padding)
        : x(arena, planes, channels, block),
          z(buffer<S>(arena, planes, channels, ring)),
          mean(arena.take<S>(block + V::size)),
          most(arena.take<S>(block + V::size)),
          padded(arena.take<S>(padding)),
          sums(arena.take<S>((channels + 1) * V::size)),
          bytes(arena.used(from)) {}
  };

 public:
  Gates(const MultiAttention& call, const std::vector<std::unique_ptr<Lit<T>>>& lit)
      : call_(call), lit_(lit), planes_(!call.channels_last), unit_(std::max<int64_t>(1, 1024 / call.w)) {
    for (int64_t k = 0; k < call.branches; ++k) {
      filters_.emplace_back(static_cast<const T*>(call.branch[k].spatial_weight), call.branch[k].side);
    }
  }

  void run() const {
    const int64_t units = ceil_div(call_.h, unit_), apart = call_.n * call_.branches;
    const int64_t wanted = ceil_div(4 * int64_t(torch::stable::get_num_threads()), apart);
    const int64_t bands = std::min(wanted, units);
    std::vector<double> sums(size_t(units * call_.n * call_.in));
    instance_norm_attention::spread(apart * bands, call_.n * call_.in * call_.h * call_.w, [&](int64_t task) {
      const int64_t band = task % bands, k = task / bands % call_.branches, n = task / bands / call_.branches;
      const int64_t begin = units * band / bands, end = units * (band + 1) / bands;
      this->band(n, k, begin, end, sums.data() + (n * call_.in + call_.branch[k].first) * units);
    });
    const double pixels = double(call_.h * call_.w);
    for (int64_t k = 0; k < call_.branches; ++k) {
      const int64_t channels = call_.branch[k].channels, first = call_.branch[k].first;
      for (int64_t n = 0; n < call_.n; ++n) {
        const double* from = sums.data() + (n * call_.in + first) * units;
        double* to = call_.means + call_.n * first + n * channels;
        std::fill_n(to, channels, 0.0);
        for (int64_t i = 0; i < units; ++i)
          for (int64_t c = 0; c < channels; ++c) to[c] += from[i * channels + c];
        for (int64_t c = 0; c < channels; ++c) to[c] /= pixels;
      }
    }
  }

 private:
  static constexpr int64_t most_block = 384;

  // sums: [units, C]
  void band(int64_t n, int64_t k, int64_t first_unit, int64_t last_unit, double* sums) const {
    const Lit<T>& lit = *lit_[k];
    const Filter& filter = filters_[k];
    const int64_t w = call_.w, h = call_.h, channels = lit.branch.channels, half = filter.half();
    const int64_t begin = first_unit * unit_, end = std::min(last_unit * unit_, h);
    const int64_t cached = (1 << 19) / int64_t(sizeof(S)) / (channels * w) - half;
    const int64_t some = std::min(std::max<int64_t>(1, cached / unit_) * unit_, end - begin);
    const int64_t ring = (some + half) * w, block = std::min(most_block, round_up(ring, 48));
    const int64_t step = filter.step(w), map = (some + 2 * half) * step;
    const int64_t bytes = Buffers(nullptr, planes_, channels, block, ring, 2 * map).bytes;
    const Buffers to(scratch<char>(bytes), planes_, channels, block, ring, 2 * map);
    std::fill_n(to.padded, 2 * map, S(0));
    S* const gates = static_cast<S*>(call_.gates) + (n * call_.branches + k) * h * w;
    for (int64_t row = begin, next = std::max<int64_t>(begin - half, 0); row < end; row += some) {
      const int64_t stop = std::min(row + some, end), seen = std::min(stop + half, h);
      S* const padded = to.padded + (half - row) * step + half;  // of row 0
      if (row > begin) {
        for (S* each : {to.padded, to.padded + map}) {
          std::copy_n(each + some * step, 2 * half * step, each);
          std::fill(each + 2 * half * step, each + map, S(0));
        }
      }
      for (int64_t pixel = next * w; pixel < seen * w;) {
        const int64_t at = pixel % ring, count = std::min({block, seen * w - pixel, ring - at});
        Ahead ahead;
        const int64_t after = std::min(block, seen * w - pixel - count);
        if (after > 0) Block{planes_, n, pixel + count, after}.ask_for<T>(lit.branch.x, channels, ahead);
        pool(lit, {planes_, n, pixel, count}, to, at, ahead);
        keep(n, k, pixel, count, begin, end, to, padded, step, map);
        pixel += count;
      }
      next = seen;
      for (int64_t y = row; y < stop; ++y) filter.row(padded + (y - half) * step - half, step, map, w, gates + y * w);
      for (int64_t y = row; y < stop; y += unit_) {
        sum_unit(to, y, std::min(y + unit_, stop), ring, channels, gates, sums + y / unit_ * channels);
      }
    }
  }

  // z of a block into the ring, mean and maximum over the channels beside it.
  void pool(const Lit<T>& lit, const Block& block, const Buffers& to, int64_t at, Ahead& ahead) const {
    const int64_t channels = lit.branch.channels;
    lit.take(block, to.x);
    const Rows<S> z{planes_ ? to.z.data + at : to.z.at(at, 0), to.z.step};
    S *const mean = to.mean, *const most = to.most;
    if (planes_) {
      std::fill_n(mean, block.count, S(0));
      std::fill_n(most, block.count, -std::numeric_limits<S>::infinity());
      lit.multiply(
          block, to.x,
          [=](V value, V, int64_t row, int64_t column, auto... part) {
            value.store(z.at(row, column), part...);
            (V::load(mean + column) + value).store(mean + column);
            max(V::load(most + column), value).store(most + column);
          },
          &ahead);
      const V count = V::fill(S(channels));
      for (int64_t i = 0; i < block.count; i += V::size) finish(V::load(mean + i) / count, V::load(most + i), i, to);
    } else {
      lit.multiply(
          block, to.x,
          [=](V value, V, int64_t row, int64_t column, auto... part) { value.store(z.at(row, column), part...); },
          &ahead);
      across(z, block.count, channels, to);
    }
  }

  // The maximum is NaN where the mean is: where some z is NaN, or where infinities of both signs are; there the gate is
  // NaN whatever the maximum.
  static void finish(V mean, V most, int64_t i, const Buffers& to) {
    mean.store(to.mean + i);
    select<S>(instance_norm_attention::equal(mean, mean), most, mean).store(to.most + i);
  }

  static void across(const Rows<S>& z, int64_t count, int64_t channels, const Buffers& to) {
    const V low = V::fill(-std::numeric_limits<S>::infinity()), many = V::fill(S(channels));
    const int64_t whole = channels / V::size * V::size;
    const int rest = int(channels - whole);
    S bottoms[V::size];
    for (int i = 0; i < V::size; ++i) bottoms[i] = i < rest ? S(0) : -std::numeric_limits<S>::infinity();
    const V bottom = V::load(bottoms);  // added to lanes without a channel
    for (int64_t begin = 0; begin < count; begin += V::size) {
      V totals[V::size], largest[V::size];
      for (int64_t j = 0; j < V::size; ++j) {
        const S* from = z.at(std::min(begin + j, count - 1), 0);
        totals[j] = V::fill(0);
        largest[j] = low;
        for (int64_t i = 0; i < whole; i += V::size) {
          const V value = V::load(from + i);
          totals[j] = totals[j] + value;
          largest[j] = max(largest[j], value);
        }
        if (rest) {
          const V value = V::load(from + whole, rest);
          totals[j] = totals[j] + value;
          largest[j] = max(largest[j], value + bottom);
        }
      }
      finish(instance_norm_attention::across<S>(totals, [](V a, V b) { return a + b; }) / many,
             instance_norm_attention::across<S>(largest, [](V a, V b) { return max(a, b); }), begin, to);
    }
  }

  // Mean and maximum of a block to the rows that the filter reads, and those of the band where somebody wants them.
  void keep(int64_t n, int64_t k, int64_t pixel, int64_t count, int64_t begin, int64_t end, const Buffers& from,
            S* padded, int64_t step, int64_t map) const {
    const int64_t w = call_.w, pixels = call_.h * w;
    S* const pooled = static_cast<S*>(call_.pooled) + 2 * (n * call_.branches + k) * pixels;
    for (int64_t i = 0; i < count;) {
      const int64_t y = (pixel + i) / w, x = (pixel + i) % w, run = std::min(w - x, count - i);
      std::copy_n(from.mean + i, run, padded + y * step + x);
      std::copy_n(from.most + i, run, padded + map + y * step + x);
      if (call_.pooled && y >= begin && y < end) {
        std::copy_n(from.mean + i, run, pooled + pixel + i);
        std::copy_n(from.most + i, run, pooled + pixels + pixel + i);
      }
      i += run;
    }
  }

  // Of rows of the ring the sums of z gate, a channel each.
  void sum_unit(const Buffers& from, int64_t begin, int64_t end, int64_t ring, int64_t channels, const S* gates,
                double* to) const {
    const int64_t w = call_.w;
    S* const sums = from.sums;
    std::fill_n(sums, channels * (planes_ ? V::size : 1) + V::size, S(0));
    for (int64_t y = begin; y < end; ++y) {
      const S* gate = gates + y * w;
      const int64_t at = y * w % ring;
      if (planes_) {
        for (int64_t c = 0; c < channels; ++c) {
          const S* z = from.z.at(c, at);
          V total = V::load(sums + c * V::size);
          instance_norm_attention::each_vector<S>(w, [&](int64_t i, auto... part) {
            total = fma(V::load(z + i, part...), V::load(gate + i, part...), total);
          });
          total.store(sums + c * V::size);
        }
      } else {
        instance_norm_attention::each_vector<S>(channels, [&](int64_t c, auto... part) {
          V total = V::load(sums + c);
          for (int64_t x = 0; x < w; ++x) {
            total = fma(V::load(from.z.at(at + x, c), part...), V::fill(gate[x]), total);
          }
          total.store(sums + c);
        });
      }
    }
    for (int64_t c = 0; c < channels; ++c) to[c] = planes_ ? sum(V::load(sums + c * V::size)) : sums[c];
  }

  const MultiAttention& call_;
  const std::vector<std::unique_ptr<Lit<T>>>& lit_;
  const bool planes_;
  const int64_t unit_;  // rows of a piece
  std::vector<Filter> filters_;
};

}  // namespace lightsr::multi

// channel_pool and gated_affine, apart and as one.
//
// Pixels go in pieces. The mean and the maximum over channels of a piece are sums along a run where runs are channels
// (a transposing tree joins the lanes of as many pixels as a vector has), and sums over runs, in the L1 cache, where
// runs are pixels. The gate of a row is a convolution of rows padded with zeros, 2 K^2 multiply-adds a pixel.
#pragma once

#include "arguments.h"
#include "cpu_runs.h"

namespace lightsr::instance_norm_attention {

// Mean and maximum over channels of y of `count` pixels from `first` on. Both have room for whole vectors.
//
// The maximum is NaN where the mean is, which is where some y is NaN, or where infinities of both signs are; there the
// gate is NaN whatever the maximum.
template <class E, class S, bool last>
void pool(const Affine<E>& affine, const Pictures& size, const S* x, int64_t n, int64_t first, int64_t count, E* mean,
          E* most) {
  using V = Vec<E>;
  const V low = V::fill(-std::numeric_limits<E>::infinity()), channels = V::fill(E(size.c));
  auto finish = [&](int64_t i, V total, V largest) {
    (total / channels).store(mean + i);
    select<E>(equal(total, total), largest, total).store(most + i);
  };
  if constexpr (last) {
    const AffineRun<E, last> run(affine, n, 0);
    const int64_t whole = size.c / V::size * V::size;
    const int rest = int(size.c - whole);
    E bottoms[V::size];
    for (int i = 0; i < V::size; ++i) bottoms[i] = i < rest ? E(0) : -std::numeric_limits<E>::infinity();
    const V bottom = V::load(bottoms);  // added to lanes without a channel
    for (int64_t begin = 0; begin < count; begin += V::size) {
      V totals[V::size], largests[V::size];
      for (int64_t j = 0; j < V::size; ++j) {
        const S* from = x + size.pixel(n, first + std::min(begin + j, count - 1));
        V total = V::fill(0), largest = low;
        for (int64_t i = 0; i < whole; i += V::size) {
          V y = run.y(V::load(from + i), i);
          total = total + y;
          largest = max(largest, y);
        }
        if (rest) {
          V y = run.y(V::load(from + whole, rest), whole, rest);
          total = total + y;
          largest = max(largest, y + bottom);
        }
        totals[j] = total;
        largests[j] = largest;
      }
      finish(begin, across<E>(totals, [](V a, V b) { return a + b; }),
             across<E>(largests, [](V a, V b) { return max(a, b); }));
    }
  } else {
    std::fill_n(mean, whole_vectors<E>(count), E(0));
    std::fill_n(most, whole_vectors<E>(count), -std::numeric_limits<E>::infinity());
    const int64_t apart = size.pixels;
    int64_t c = 0;
    for (; c + 4 <= size.c; c += 4) {
      const S* from = x + size.plane(n, c) + first;
      const AffineRun<E, last> a(affine, n, c), b(affine, n, c + 1), d(affine, n, c + 2), e(affine, n, c + 3);
      each_vector<E>(count, [&](int64_t i, auto... part) {
        V p = a.y(V::load(from + i, part...), i), q = b.y(V::load(from + apart + i, part...), i);
        V r = d.y(V::load(from + 2 * apart + i, part...), i), s = e.y(V::load(from + 3 * apart + i, part...), i);
        (V::load(mean + i) + ((p + q) + (r + s))).store(mean + i);
        max(V::load(most + i), max(max(p, q), max(r, s))).store(most + i);
      });
    }
    for (; c < size.c; ++c) {
      const S* from = x + size.plane(n, c) + first;
      const AffineRun<E, last> run(affine, n, c);
      each_vector<E>(count, [&](int64_t i, auto... part) {
        V y = run.y(V::load(from + i, part...), i);
        (V::load(mean + i) + y).store(mean + i);
        max(V::load(most + i), y).store(most + i);
      });
    }
    for (int64_t i = 0; i < count; i += V::size) finish(i, V::load(mean + i), V::load(most + i));
  }
}

// out = y gate + x of `count` pixels from `first` on; gate holds theirs. Without one out = y (+ x). Where runs are
// pixels, of channels c to end alone.
template <class E, class S, bool last, bool gated>
void apply(const GatedAffine& call, const Affine<E>& affine, int64_t n, int64_t c, int64_t end, int64_t first,
           int64_t count, const E* gate) {
  using V = Vec<E>;
  const Pictures size(call);
  const bool residual = call.residual, past = size.past_cache<S>(last);
  const int64_t length = last ? size.c : count;
  for (int64_t r = last ? 0 : c; r < (last ? count : end); ++r) {
    const int64_t at = last ? size.pixel(n, first + r) : size.plane(n, r) + first;
    const S* x = static_cast<const S*>(call.x) + at;
    S* out = static_cast<S*>(call.out) + at;
    const AffineRun<E, last> run(affine, n, last ? 0 : r);
    const E one = 1;
    const OfPixel<E, last> factor(gated ? gate + (last ? r : 0) : &one);
    each_vector<E>(length, [&](int64_t i, auto... part) {
      V value = V::load(x + i, part...), y = run.y(value, i, part...);
      // Said in so many words, so that the compiler makes the same of it for all numbers, at the end of a run too.
      if constexpr (gated)
        y = residual ? fma(y, factor.at(i, part...), value) : y * factor.at(i, part...);
      else if (residual)
        y = y + value;
      put(y, out + i, past, part...);
    });
  }
}

// The filter of the gate, and its way along a row.
template <class E>
class GateFilter {
 public:
  template <class S>
  GateFilter(const S* weight, int64_t k) : k_(k), taps_(size_t(2 * k * k)) {
    each_vector<E>(2 * k * k, [&](int64_t i, auto... part) {
      Vec<E>::load(weight + i, part...).store(taps_.data() + i, part...);
    });
  }
  int64_t half() const { return k_ / 2; }
  // Numbers in a padded row of w pixels, so that whole tiles can be read.
  int64_t step(int64_t w) const { return ceil_div(w, tile) * tile + k_ - 1; }

  // Of the pixels whose first taps are at rows and rows + map.
  void row(const E* rows, int64_t step, int64_t map, int64_t w, E* gate) const {
    for (int64_t x = 0; x < w; x += tile) {
      Vec<E> sums[vectors];
      for (Vec<E>& each : sums) each = Vec<E>::fill(0);
      const E* tap = taps_.data();
      for (int64_t i = 0; i < 2 * k_; ++i) {
        const E* from = rows + (i < k_ ? i * step : map + (i - k_) * step) + x;
        for (int64_t j = 0; j < k_; ++j, ++from, ++tap) {
          Vec<E> weight = Vec<E>::fill(*tap).kept();
          for (int v = 0; v < vectors; ++v) sums[v] = fma(weight, Vec<E>::load(from + v * Vec<E>::size), sums[v]);
        }
      }
      for (int v = 0; v < vectors; ++v) {
        int64_t left = w - x - v * Vec<E>::size;
        if (left > 0) sigmoid(sums[v]).store(gate + x + v * Vec<E>::size, int(std::min<int64_t>(left, Vec<E>::size)));
      }
    }
  }

 private:
  static constexpr int vectors = 8;
  static constexpr int64_t tile = vectors * Vec<E>::size;
  int64_t k_;
  std::vector<E> taps_;
};

template <class E, class S, bool last>
class ChannelPoolPass {
 public:
  explicit ChannelPoolPass(const ChannelPool& call) : call_(call), affine_(call), size_(call) {}

  void run() const {
    const int64_t piece = std::max<int64_t>(1024, (1 << 16) / size_.c), pieces = ceil_div(size_.pixels, piece);
    spread(size_.n * pieces, size_.numbers(), [&](int64_t task) {
      const int64_t n = task / pieces, first = task % pieces * piece, count = std::min(piece, size_.pixels - first);
      E* mean = scratch<E>(2 * whole_vectors<E>(count));
      E* most = mean + whole_vectors<E>(count);
      pool<E, S, last>(affine_, size_, static_cast<const S*>(call_.x), n, first, count, mean, most);
      E* to = static_cast<E*>(call_.pooled) + 2 * n * size_.pixels + first;
      std::copy_n(mean, count, to);
      std::copy_n(most, count, to + size_.pixels);
    });
  }

 private:
  const ChannelPool& call_;
  const Affine<E> affine_;
  const Pictures size_;
};

// Where the maps are made here rather than given, they are made a few rows ahead of the result, so that x is still in
// the cache when it is read again.
template <class E, class S, bool last>
class GatedAffinePass {
 public:
  explicit GatedAffinePass(const GatedAffine& call, bool pools = false, void* pooled = nullptr)
      : call_(call),
        affine_(call),
        size_(call),
        filter_(static_cast<const S*>(call.spatial_weight), call.spatial_weight ? call.k : 0),
        pools_(pools),
        pooled_(static_cast<E*>(pooled)) {}

  void run() const {
    if (!call_.spatial_weight) {
      // Numbers in the order in which they lie, and backwards: the moments' pass has just read them forwards.
      const int64_t piece = last ? std::max<int64_t>(256, (1 << 16) / size_.c) : 16384;
      const int64_t some =
          last ? size_.c : std::clamp<int64_t>(piece / size_.pixels, 1, size_.c);  // channels of a task
      const int64_t pieces = ceil_div(size_.pixels, piece), groups = ceil_div(size_.c, some);
      const auto run = [&](int64_t task) {
        const int64_t first = task % pieces * piece, c = task / pieces % groups * some;
        apply<E, S, last, false>(call_, affine_, task / pieces / groups, c, std::min(c + some, size_.c), first,
                                 std::min(piece, size_.pixels - first), nullptr);
      };
      return spread(size_.n * groups * pieces, size_.numbers(), run, true);
    }
    // How many bands there are changes no result.
    const int64_t fair = ceil_div(4 * int64_t(torch::stable::get_num_threads()), size_.n);
    const int64_t bands = std::min(fair, ceil_div(size_.h, 4 * filter_.half() + 4)), rows = ceil_div(size_.h, bands);
    spread(size_.n * bands, size_.numbers(), [&](int64_t task) {
      const int64_t row = task % bands * rows;
      if (row < size_.h) band(task / bands, row, std::min(row + rows, size_.h));
    });
  }

  // All of a picture, by one thread.
  void picture(int64_t n) const {
    if (call_.spatial_weight)
      band(n, 0, size_.h);
    else
      apply<E, S, last, false>(call_, affine_, n, 0, size_.c, 0, size_.pixels, nullptr);
  }

  void plane(int64_t n, int64_t c) const {
    if constexpr (!last) apply<E, S, last, false>(call_, affine_, n, c, c + 1, 0, size_.pixels, nullptr);
  }

 private:
  void band(int64_t n, int64_t begin, int64_t end) const {
    const int64_t w = size_.w, half = filter_.half(), step = filter_.step(w), map = (end - begin + 2 * half) * step;
    const int64_t cached = (1 << 21) / (size_.c * int64_t(sizeof(S))) - half * w;  // pixels
    const int64_t some = std::clamp<int64_t>(cached / w, 1, end - begin);
    const int64_t pool = whole_vectors<E>((some + 2 * half) * w);
    E* maps = scratch<E>(2 * map + some * w + 2 * pool);
    E *gate = maps + 2 * map, *mean = gate + some * w, *most = mean + pool;
    std::fill_n(maps, 2 * map, E(0));
    int64_t next = std::max<int64_t>(begin - half, 0);  // row whose maps are not there yet
    for (int64_t row = begin; row < end; row += some) {
      const int64_t stop = std::min(row + some, end), seen = std::min(stop + half, size_.h);
      const E *means = mean, *mosts = most;
      if (pools_) {
        pool_rows(n, next, seen, mean, most);
      } else {
        means = static_cast<const E*>(call_.pooled) + (2 * n * size_.h + next) * w;
        mosts = means + size_.pixels;
      }
      for (; next < seen; ++next, means += w, mosts += w) {
        E* to = maps + (next - begin + half) * step + half;
        std::copy_n(means, w, to);
        std::copy_n(mosts, w, to + map);
        if (pooled_ && next >= begin && next < end) {
          E* kept = pooled_ + (2 * n * size_.h + next) * w;
          std::copy_n(means, w, kept);
          std::copy_n(mosts, w, kept + size_.pixels);
        }
      }
      for (int64_t y = row; y < stop; ++y) filter_.row(maps + (y - begin) * step, step, map, w, gate + (y - row) * w);
      if (call_.gate) std::copy_n(gate, (stop - row) * w, static_cast<E*>(call_.gate) + (n * size_.h + row) * w);
      apply<E, S, last, true>(call_, affine_, n, 0, size_.c, row * w, (stop - row) * w, gate);
    }
  }

  void pool_rows(int64_t n, int64_t begin, int64_t end, E* mean, E* most) const {
    const int64_t first = begin * size_.w, count = (end - begin) * size_.w;
    pool<E, S, last>(affine_, size_, static_cast<const S*>(call_.x), n, first, count, mean, most);
  }

  const GatedAffine& call_;
  const Affine<E> affine_;
  const Pictures size_;
  const GateFilter<E> filter_;
  const bool pools_;
  E* const pooled_;
};

}  // namespace lightsr::instance_norm_attention

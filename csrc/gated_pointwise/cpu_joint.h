// The star of gated_pointwise by joint products (common/joint_product.h), in float32.
//
// These round like plain products where what they add has one size. That of a normed pixel is known: the squares of its
// channels add up to C before the norm's weight, which goes into the filters. Powers of two, which round nothing, do
// the rest:
//
//   - of two channels that are joined one is scaled, and the filters' numbers for it by the inverse, so that pixels and
//     filters are of one size, as far as a sample of the pixels tells;
//   - each filter with its bias is scaled to a length of about 1, so that small ones do not lose digits to large ones.
//
// With a, b and c scaled by A, B and G the star comes out as A B times itself: the gate gets A B / G as its 1, and
// out_weight is divided by A B.
#pragma once

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "cpu_forward.h"

namespace lightsr::gated {

// What is computed with instead of the parameters.
class Scaled {
  using V = Vec<float>;
  static constexpr int size = V::size;
  static constexpr Parameter weight_of[] = {weight_a, weight_b, weight_c}, bias_of[] = {bias_a, bias_b, bias_c};

 public:
  const int64_t c, e, wide;               // wide: C, rounded up to vectors
  Aligned<float> channels, zeros;         // [wide]
  Aligned<float> filters, begin, offset;  // [3, E, wide]; [3, E]: what is added before products and after them
  Aligned<float> six, one, out;           // [E], [E]: 6 and the gate's 1, as results are scaled; [C, E]

  explicit Scaled(const GatedPointwise& call)
      : c(call.c),
        e(call.expanded),
        wide(round_up(call.c, size)),
        channels(wide),
        zeros(wide),
        filters(3 * e * wide),
        begin(3 * e),
        offset(3 * e),
        six(e),
        one(e),
        out(c * e),
        call_(call),
        sizes_(wide),
        squares_(wide),
        by_(3 * e) {
    std::fill_n(channels.data(), wide, 1.0f);
    std::fill_n(zeros.data(), wide, 0.0f);
    sample();
    scale_filters();
    if (!reached_) return;
    scale_channels();
    for (int path = 0; path < 3; ++path) finish(path);
    scale_star();
  }

  // Whether scales could do what they are for: all is finite then, and no filter is shorter than they reach.
  bool fits() const {
    const auto finite = [](const Aligned<float>& numbers, int64_t count) {
      float sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += numbers.data()[i] - numbers.data()[i];  // 0, or no number
      return sum == 0;
    };
    return reached_ && finite(offset, 3 * e) && finite(one, e) && finite(out, c * e);
  }

 private:
  static constexpr float reach = 45;  // of scales, as a power of two: products of them stay in float32

  // The power of two near a finite number that is not negative, as far as scales reach.
  static float power_near(float number) { return std::exp2(std::clamp(std::round(std::log2(number)), -reach, reach)); }

  // How large each channel of normed pixels is, from blocks all over the pictures: the fourth root of the mean fourth
  // power, as it is where numbers are large that rounding counts. Beside each other, so that flat pixels do not count.
  void sample() {
    constexpr int64_t samples = 8, most = 48;
    constexpr float least = 0.25f;  // a channel that is small here may be large elsewhere
    const bool planes = !call_.channels_last;
    const int64_t pixels = call_.h * call_.w, count = std::min(most, pixels);
    const ChannelNorm<float> norm(planes, c, call_.eps, channels.data(), zeros.data());
    const auto buffers = [&](char* from) {
      Arena arena(from);
      const Operand<float> n(arena, planes, c, count);
      const ChannelSums<float> sums(arena, planes, c);
      return std::tuple(n, sums, arena.used(from));
    };
    const Aligned<char> memory(std::get<2>(buffers(nullptr)));
    const auto [n, sums, _] = buffers(memory.data());
    sums.clear(c);
    for (int64_t i = 0; i < samples; ++i) {
      const Block block{planes, call_.n * i / samples, (pixels - count) * i / (samples - 1), count};
      norm(block, block.of<float>(call_.x, c, pixels), n);
      block.every<float>(
          c, [sums = sums, from = n.numbers, all = V::fill(float(c + 1))](int64_t row, int64_t column, auto... part) {
            const V value = V::load(from.at(row, column), part...), square = value * value;
            sums.add(select<float>(square < all, square * square, V::fill(0)), row, column, part...);  // no NaN
          });
    }
    std::vector<double> found(size_t(c), 0);
    sums.add_to(found.data(), c);
    double total = 0;
    for (double& each : found) total += each = std::sqrt(each);
    std::fill_n(sizes_.data(), wide, 0.0f);
    for (int64_t k = 0; k < c; ++k) {
      const float size = total > 0 ? float(std::sqrt(found[size_t(k)] / total * double(c))) : 1;
      sizes_.data()[k] = std::max(size, least);
    }
  }

  template <class Each>
  void every_vector(const Each& each) const {
    int64_t k = 0;
    for (; k + size <= c; k += size) each(k);
    if (k < c) each(k, int(c - k));
  }

  const float* parameter(Parameter which) const { return static_cast<const float*>(call_.parameters[which]); }
  float* filter(int64_t index) const { return filters.data() + index * wide; }

  // With the norm's weight, and brought to a length of about 1 beside channels of these sizes.
  void scale_filters() {
    float* const squares = squares_.data();
    std::fill_n(squares, wide, 0.0f);
    for (int64_t i = 0; i < 3 * e; ++i) {
      const float *from = parameter(weight_of[i / e]) + i % e * c, *weight = parameter(norm_weight);
      float* const to = filter(i);
      V length = V::fill(0), any = length;
      every_vector([&](int64_t k, auto... part) {
        const V number = V::load(from + k, part...) * V::load(weight + k, part...);
        const V there = number * V::load(sizes_.data() + k);
        length = fma(there, there, length);
        any = any + max(there, -there);  // squares may vanish
        number.store(to + k);
      });
      const float found = std::sqrt(sum(length));
      reached_ = reached_ && (sum(any) == 0 || (found > std::exp2(-reach) && found < std::exp2(reach)));
      if (!reached_) return;
      by_.data()[i] = 1 / power_near(found);
      const V by = V::fill(by_.data()[i]);
      every_vector([&](int64_t k, auto...) {
        const V number = V::load(to + k) * by;
        fma(number, number, V::load(squares + k)).store(squares + k);
        number.store(to + k);
      });
    }
  }

  // The first of two channels that are joined is scaled.
  void scale_channels() {
    const float *sizes = sizes_.data(), *squares = squares_.data();
    for (int64_t k = 0; k < joined(c); k += joint_terms) {
      const float filters = std::sqrt(squares[k]) * std::sqrt(squares[k + 1]) / float(3 * e);
      channels.data()[k] = power_near(std::sqrt(filters / (sizes[k] * sizes[k + 1])));
    }
  }

  // The filters of a path, what its sums begin with, and what is added to them at the end: offsets may be large.
  void finish(int path) {
    const float *weight = parameter(weight_of[path]), *bias = parameter(bias_of[path]), *shift = parameter(norm_bias);
    for (int64_t i = 0; i < e; ++i) {
      float* const to = filter(path * e + i);
      V shifts = V::fill(0);
      every_vector([&](int64_t k, auto... part) {
        shifts = fma(V::load(weight + i * c + k, part...), V::load(shift + k, part...), shifts);
        (V::load(to + k) / V::load(channels.data() + k)).store(to + k);
      });
      double own = 0;
      for (int64_t k = 0; k < joined(c); k += joint_terms) own += double(to[k]) * to[k + 1];
      begin.data()[path * e + i] = float(-own);
      offset.data()[path * e + i] = by_.data()[path * e + i] * (bias[i] + sum(shifts));
    }
  }

  void scale_star() {
    const float *by = by_.data(), *weight = parameter(out_weight);
    for (int64_t i = 0; i < e; ++i) {
      const float star = by[i] * by[e + i];
      six.data()[i] = 6 * by[i];
      one.data()[i] = star / by[2 * e + i];
      for (int64_t k = 0; k < c; ++k) out.data()[k * e + i] = weight[k * e + i] / star;
    }
  }

  const GatedPointwise& call_;
  Aligned<float> sizes_, squares_, by_;  // of channels; of the filters' numbers for them, added up; the filters' scales
  bool reached_ = true;
};

class JointStar {
  using V = Vec<float>;
  static constexpr int size = V::size;

 public:
  const ChannelNorm<float> norm;
  const Layer<float> out;

  JointStar(const GatedPointwise& call, const Scaled& scaled)
      : norm(!call.channels_last, call.c, call.eps, scaled.channels.data(), scaled.zeros.data()),
        out(!call.channels_last, scaled.out.data(), call.parameters[out_bias], call.c, call.expanded),
        planes_(!call.channels_last),
        a_(planes_, scaled, 0),
        b_(planes_, scaled, 1),
        c_(planes_, scaled, 2),
        six_(planes_, scaled.six.data(), call.expanded),
        one_(planes_, scaled.one.data(), call.expanded),
        gate_(layer_of<float>(call, exit_weight, exit_bias, call.expanded, call.gate)) {}

  void operator()(const Block& block, const Operand<float>& n, const Operand<float>& middle, const Operand<float>& to,
                  Ahead& ahead) const {
    planes_ ? run<true>(block, n, middle, to, ahead) : run<false>(block, n, middle, to, ahead);
  }

 private:
  template <bool planes>
  void run(const Block& block, const Operand<float>& n, const Operand<float>& middle, const Operand<float>& to,
           Ahead& ahead) const {
    alignas(64) float own[Blocks::most_pixels + size];
    joined_neighbours(block, n.numbers, own);
    const std::array paths{a_.product(block, n, own), b_.product(block, n, own), c_.product(block, n, own)};
    const Product<float> gate = gate_.filters.of(ready(block, middle, gate_.filters.ins));
    const int64_t channels = out.filters.ins;
    tiles_together<4, joint_rows, float>(
        block.rows(channels), block.columns(channels),
        [&](int64_t row, int64_t column, bool half, int vectors, auto& to) {
          for (int i = 0; i < 3; ++i)
            multiply_tile(paths[size_t(i)], row, column, half, vectors, to[i], vectors * size, ahead);
          multiply_tile<joint_rows>(gate, row, column, half, vectors, to[3], vectors * size, &ahead);
        },
        [of_a = a_.offset.from_channel(0), of_b = b_.offset.from_channel(0), of_c = c_.offset.from_channel(0),
         of_gate = gate_.bias.from_channel(0), six = six_.from_channel(0), one = one_.from_channel(0),
         to = to.numbers](int64_t row) {
          return [=, of_a = of_a.in_row<planes>(row), of_b = of_b.in_row<planes>(row), of_c = of_c.in_row<planes>(row),
                  of_gate = of_gate.in_row<planes>(row), six = six.in_row<planes>(row),
                  one = one.in_row<planes>(row)](const std::array<V, 4>& sums, int64_t column, auto... part) {
            const V a = min(six.at(column), max(V::fill(0), sums[0] + of_a.at(column)));
            const V b = sums[1] + of_b.at(column), c = sums[2] + of_c.at(column);
            const V s = sigmoid(sums[3] + of_gate.at(column), one.at(column));
            fma(c, s, a * b).store(to.at(row, column), part...);
          };
        });
  }

  // a, b or c.
  struct Path {
    const bool planes;
    const Filters<float> filters;
    const PerChannel<float> begin, offset;

    Path(bool planes, const Scaled& from, int64_t path)
        : planes(planes),
          filters(planes, from.e, from.c, from.filters.data() + path * from.e * from.wide, from.wide, 1),
          begin(planes, from.begin.data() + path * from.e, from.e),
          offset(planes, from.offset.data() + path * from.e, from.e) {}

    JointProduct<float> product(const Block& block, const Operand<float>& n, const float* own) const {
      const float* mine = begin.from_channel(0).data;
      return {filters.of(ready(block, n, filters.ins)), planes ? mine : own, planes ? own : mine};
    }
  };

  // For each pixel less the products of its channels that are joined.
  void joined_neighbours(const Block& block, const Rows<float>& n, float* own) const {
    const int64_t last = joined(a_.filters.ins);
    if (!planes_) {
      for (int64_t pixel = 0; pixel < block.count; ++pixel) {
        const float* at = n.at(pixel, 0);
        float found = 0;
        for (int64_t k = 0; k < last; k += joint_terms) found -= at[k] * at[k + 1];
        own[pixel] = found;
      }
      return;
    }
    for (int64_t pixel = 0; pixel < block.count; pixel += size) {
      V found = V::fill(0);
      for (int64_t k = 0; k < last; k += joint_terms)
        found = fma(-V::load(n.at(k, pixel)), V::load(n.at(k + 1, pixel)), found);
      found.store(own + pixel);
    }
  }

  const bool planes_;
  const Path a_, b_, c_;
  const PerChannel<float> six_, one_;
  const Layer<float> gate_;
};

}  // namespace lightsr::gated

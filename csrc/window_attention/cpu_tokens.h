// Pixels as rows of their normalised channels, in which form products with small matrices read them; and back.
//
// Whatever the layout of the picture, a row is one pixel, its channels filled up to whole vectors with zeros, and
// vectors lie along channels. From [N, H, W, C] rows are read as they lie, and the sums of as many pixels as a vector
// has lanes are added up across lanes together. From [N, C, H, W] vectors of neighbouring pixels are normalised and
// turned over in registers, a square at a time. The mean is taken off before squares are added.
#pragma once

#include "../common/pixel_product.h"
#include "../large_kernel_attention/cpu_rows.h"

namespace lightsr {

template <class T>
class Tokens {
 public:
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  static constexpr int size = Vec<S>::size;

  Tokens(bool planes, int64_t channels, int64_t pixels, double eps, const void* weight, const void* bias)
      : planes_(planes),
        channels_(channels),
        padded_(round_up(channels, size)),
        pixels_(pixels),
        eps_(static_cast<S>(eps)),
        weight_(padded_),
        bias_(padded_) {
    fill(static_cast<const T*>(weight), weight_.data());
    fill(static_cast<const T*>(bias), bias_.data());
  }

  int64_t padded() const { return padded_; }                     // numbers in a row
  int64_t work() const { return planes_ ? padded_ * size : 0; }  // numbers of S that `normed` works in
  int64_t picture() const { return channels_ * pixels_; }        // numbers in a picture
  int64_t first(int64_t pixel) const { return planes_ ? pixel : pixel * channels_; }  // where a pixel's numbers begin

  // Asks for the numbers of `count` neighbours, x at the first of them.
  void ask_for(const T* x, int64_t count, Ahead& ahead) const {
    const int64_t each = sizeof(T);
    if (planes_) {
      ahead.add(x, pixels_ * each, count * each, channels_);
    } else {
      ahead.add(x, 0, count * channels_ * each, 1);
    }
  }

  // Asks for a share of the pixels of a run of sets, as many stretches as there is room for; x at the picture's first
  // pixel.
  template <class Some>
  void ask_for(const T* x, const Some& sets, const typename Some::Run& run, Ahead& ahead, int64_t share = 0,
               int64_t shares = 1) const {
    int64_t number = 0;
    sets.stretches(run, 0, [&](int64_t pixel, int64_t count, const auto&) {
      if (number++ % shares == share) ask_for(x + first(pixel), count, ahead);
    });
  }

  // Row place(p) becomes pixel p of `count` neighbours, x at the first of them; moments[p] and moments[apart + p] its
  // mean and one over its deviation, where they are asked for.
  template <class Place>
  void normed(const T* x, int64_t count, S* work, const Place& place, S* moments = nullptr, int64_t apart = 0) const {
    for (int64_t p = 0; p < count; p += size) {
      const int many = static_cast<int>(std::min<int64_t>(size, count - p));
      V mean, root;
      if (!planes_) {
        by_pixels(x, p, many, place, mean, root);
      } else if (many == size) {
        by_planes(x, p, many, work, place, mean, root);
      } else {
        by_planes(x, p, many, work, place, mean, root, many);
      }
      if (!moments) continue;
      mean.store(moments + p, many);
      root.store(moments + apart + p, many);
    }
  }

  // out = x + rows at `count` neighbouring pixels of planes; x and out at the first of them. `past` says whether out
  // goes past the caches, if a vector is a line: of several, the next one comes after all other planes have had theirs.
  template <class Place>
  void add(const T* x, T* out, int64_t count, bool past, const Place& place) const {
    past = past && size * sizeof(T) >= 64;
    for (int64_t p = 0; p < count; p += size) {
      const int many = static_cast<int>(std::min<int64_t>(size, count - p));
      if (many == size) {
        add_planes(x, out, p, many, past, place);
      } else {
        add_planes(x, out, p, many, past, place, many);
      }
    }
  }

 private:
  using V = Vec<S>;

  void fill(const T* from, S* to) const {
    std::fill_n(to, padded_, S(0));
    for (int64_t c = 0; c < channels_; ++c) to[c] = wide_number<S>(from[c]);
  }

  template <class Place>
  void by_pixels(const T* x, int64_t pixel, int many, const Place& place, V& mean_of, V& root_of) const {
    const int64_t whole = channels_ / size * size;
    const int part = static_cast<int>(channels_ - whole);
    const V share = V::fill(S(1) / S(channels_)), zero = V::fill(0);
    V sums[size];
    for (int i = 0; i < many; ++i) {
      const T* from = x + (pixel + i) * channels_;
      V total = part ? V::load(from + whole, part) : zero;
      for (int64_t c = 0; c < whole; c += size) total = total + V::load(from + c);
      sums[i] = total;
    }
    for (int i = many; i < size; ++i) sums[i] = zero;
    S means[size], roots[size];
    mean_of = sum_each(sums) * share;
    mean_of.store(means);
    for (int i = 0; i < many; ++i) {
      const T* from = x + (pixel + i) * channels_;
      const V mean = V::fill(means[i]);
      V total = zero;
      if (part) {
        S squares[size] = {};
        const V centred = V::load(from + whole, part) - mean;
        (centred * centred).store(squares, part);  // of the lanes that are there
        total = V::load(squares);
      }
      for (int64_t c = 0; c < whole; c += size) {
        const V centred = V::load(from + c) - mean;
        total = lightsr::fma(centred, centred, total);
      }
      sums[i] = total;
    }
    for (int i = many; i < size; ++i) sums[i] = zero;
    root_of = V::fill(1) / sqrt(lightsr::fma(sum_each(sums), share, V::fill(eps_)));
    root_of.store(roots);
    for (int i = 0; i < many; ++i) {
      const T* from = x + (pixel + i) * channels_;
      F* to = place(pixel + i);
      const V mean = V::fill(means[i]), root = V::fill(roots[i]);
      const auto put = [&](V value, int64_t c) {
        lightsr::fma((value - mean) * root, V::load(weight_.data() + c), V::load(bias_.data() + c)).store(to + c);
      };
      for (int64_t c = 0; c < whole; c += size) put(V::load(from + c), c);
      if (part) put(V::load(from + whole, part), whole);
    }
  }

  // sum = add(c, sum) for all channels, in four sums, since each addition would wait for the one before.
  template <class Add>
  V over_channels(const Add& add) const {
    const int64_t channels = channels_;  // read once: what `add` stores might be it, for all that the compiler knows
    V sums[4] = {V::fill(0), V::fill(0), V::fill(0), V::fill(0)};
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) sums[k] = add(c + k, sums[k]);
    }
    for (; c < channels; ++c) sums[0] = add(c, sums[0]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  template <class Place, class... Part>
  void by_planes(const T* x, int64_t pixel, int many, S* work, const Place& place, V& mean, V& root,
                 Part... part) const {
    const int64_t channels = channels_, padded = padded_, pixels = pixels_;
    const S *weight = weight_.data(), *bias = bias_.data();
    const V share = V::fill(S(1) / S(channels));
    mean = share * over_channels([=](int64_t c, V sum) {
             const V value = V::load(x + c * pixels + pixel, part...);
             value.store(work + c * size);
             return sum + value;
           });
    const V squares = over_channels([=](int64_t c, V sum) {
      const V centred = V::load(work + c * size) - mean;
      return lightsr::fma(centred, centred, sum);
    });
    root = V::fill(1) / sqrt(lightsr::fma(squares, share, V::fill(eps_)));
    F* rows[size];
    const int count = sizeof...(part) ? many : size;
    for (int i = 0; i < count; ++i) rows[i] = place(pixel + i);
    const auto square = [=, &rows](int64_t c, int there) __attribute__((always_inline)) {
      V values[size];
#pragma GCC unroll 16
      for (int i = 0; i < there; ++i) {
        const V normed = (V::load(work + (c + i) * size) - mean) * root;
        values[i] = lightsr::fma(normed, V::fill(weight[c + i]), V::fill(bias[c + i]));
      }
      for (int i = there; i < size; ++i) values[i] = V::fill(0);
      transpose(values);
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) values[i].store(rows[i] + c);
    };
    int64_t c = 0;
    for (; c + size <= channels; c += size) square(c, size);
    if (c < padded) square(c, static_cast<int>(channels - c));
  }

  template <class Place, class... Part>
  void add_planes(const T* x, T* out, int64_t pixel, int many, bool past, const Place& place, Part... part) const {
    const int64_t channels = channels_, pixels = pixels_;
    const S* rows[size];
    const int count = sizeof...(part) ? many : size;
    for (int i = 0; i < count; ++i) rows[i] = place(pixel + i);
    const auto square = [=, &rows](int64_t c, int there) __attribute__((always_inline)) {
      V values[size];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) values[i] = V::load(rows[i] + c);
      for (int i = count; i < size; ++i) values[i] = V::fill(0);
      transpose(values);
#pragma GCC unroll 16
      for (int i = 0; i < there; ++i) {
        const int64_t at = (c + i) * pixels + pixel;
        put(values[i] + V::load(x + at, part...), out + at, past, part...);
      }
    };
    int64_t c = 0;
    for (; c + size <= channels; c += size) square(c, size);
    if (c < channels) square(c, static_cast<int>(channels - c));
  }

  bool planes_;
  int64_t channels_, padded_, pixels_;
  S eps_;
  Aligned<S> weight_, bias_;
};

inline BFloat16 rounded(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  if (number != number) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// A matrix [outs, ins] by which rows of numbers are multiplied. Its outs stand in groups, each filled up to whole
// vectors: sums of padding are zeros, or no numbers where a row has one that is none.
template <class T>
class Columns {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  static constexpr int64_t each = Numbers<T>::pairs ? 2 : 1;

 public:
  template <class From>
  Columns(const From* from, int64_t outs, int64_t ins, int64_t group)
      : padded_(round_up(group, Vec<S>::size)),
        depth_((ins + each - 1) / each),
        step_(outs / group * padded_),
        numbers_(depth_ * step_) {
    F* to = reinterpret_cast<F*>(numbers_.data());
    std::fill_n(to, each * depth_ * step_, F{});
    for (int64_t out = 0; out < outs; ++out) {
      const int64_t column = out / group * padded_ + out % group;
      for (int64_t in = 0; in < ins; ++in) {
        F& place = to[(in / each * step_ + column) * each + in % each];
        const From number = from[out * ins + in];
        if constexpr (std::is_same_v<F, From>) {
          place = number;
        } else if constexpr (Numbers<T>::pairs) {
          place = rounded(number);
        } else {
          place = wide_number<S>(number);
        }
      }
    }
  }

  int64_t step() const { return step_; }  // columns, padding and all

  // Calls each(sums, row, column, part...) for the first `columns` columns of `count` rows times the matrix.
  template <class Each>
  void multiply(Rows<const F> rows, int64_t count, int64_t columns, const Each& each_sums,
                Ahead* ahead = nullptr) const {
    lightsr::multiply(product(rows), count, columns, each_sums, ahead);
  }

  // The same to rows.
  template <class To>
  void multiply_to(Rows<const F> rows, int64_t count, int64_t columns, Rows<To> to, Ahead* ahead = nullptr) const {
    lightsr::multiply_to(product(rows), count, columns, to.data, to.step, ahead);
  }

 private:
  Product<E> product(Rows<const F> rows) const {
    return {reinterpret_cast<const E*>(rows.data), rows.step / each, 1, numbers_.data(), step_, depth_};
  }

  int64_t padded_, depth_, step_;
  Aligned<E> numbers_;
};

}  // namespace lightsr

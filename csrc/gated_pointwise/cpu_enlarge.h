// A coarse map [N, coarse_h, coarse_w, lanes], enlarged bilinearly where it is needed: for the pixels of a block. As
// PyTorch does with corners not aligned: pixel i reads at (i + 1/2) coarse / fine - 1/2, not below 0, and the row or
// column after the last is the last. And the way back: every number of the coarse map gathers from the pixels that read
// it, in their order.
#pragma once

#include <vector>

#include "../common/parallel.h"
#include "cpu_maps.h"

namespace lightsr::gated {

template <class S>
class Enlarge {
  using V = Vec<S>;
  static constexpr int size = V::size;

  // What pixels along one side read, and with what weights.
  struct Side {
    std::vector<int64_t> first, second;
    std::vector<S> near, far;       // weights of the first and of the second
    std::vector<int64_t> from, to;  // of each coarse number the pixels that may read it

    Side(int64_t coarse, int64_t fine)
        : first(fine), second(fine), near(fine), far(fine), from(coarse, fine), to(coarse, 0) {
      const S scale = S(coarse) / S(fine);
      for (int64_t i = 0; i < fine; ++i) {
        const S at = std::max(S(0), (S(i) + S(0.5)) * scale - S(0.5));
        first[i] = std::min(int64_t(at), coarse - 1);
        second[i] = std::min(first[i] + 1, coarse - 1);
        far[i] = std::clamp(at - S(first[i]), S(0), S(1));
        near[i] = S(1) - far[i];
        for (int64_t place : {first[i], second[i]}) {
          from[place] = std::min(from[place], i);
          to[place] = i + 1;
        }
      }
    }
    // The weight that pixel i has for one of the coarse numbers.
    S weight(int64_t i, int64_t place) const {
      return (first[i] == place ? near[i] : S(0)) + (second[i] == place ? far[i] : S(0));
    }
  };

 public:
  explicit Enlarge(const GatedPointwise& call)
      : call_(call), lanes_(call.lanes), rows_(call.coarse_h, call.h), columns_(call.coarse_w, call.w) {}

  // Numbers that `row` below needs: a row of the coarse map.
  int64_t scratch() const { return call_.coarse_w * lanes_; }

  // The block's pixels, one behind the other.
  void operator()(const Block& block, const S* coarse, S* to, S* row) const {
    coarse += block.picture * call_.coarse_h * scratch();
    for (int64_t done = 0; done < block.count;) {
      const int64_t y = (block.pixel + done) / call_.w, x = (block.pixel + done) % call_.w;
      const int64_t many = std::min(call_.w - x, block.count - done);
      const V near = V::fill(rows_.near[y]), far = V::fill(rows_.far[y]);
      const S *above = coarse + rows_.first[y] * scratch(), *below = coarse + rows_.second[y] * scratch();
      for (int64_t i = columns_.first[x] * lanes_; i < (columns_.second[x + many - 1] + 1) * lanes_; i += size)
        fma(V::load(above + i), near, V::load(below + i) * far).store(row + i);
      for (int64_t i = x; i < x + many; ++i, ++done) {
        const V left = V::fill(columns_.near[i]), right = V::fill(columns_.far[i]);
        const S *a = row + columns_.first[i] * lanes_, *b = row + columns_.second[i] * lanes_;
        for (int64_t c = 0; c < lanes_; c += size)
          fma(V::load(a + c), left, V::load(b + c) * right).store(to + done * lanes_ + c);
      }
    }
  }

  // One row of the coarse map's gradient from that of the enlarged map. `row` has w * lanes numbers.
  void gather(int64_t picture, int64_t coarse_y, const S* grad, S* to, S* row) const {
    const int64_t wide = call_.w * lanes_;
    std::fill_n(row, wide, S(0));
    for (int64_t y = rows_.from[coarse_y]; y < rows_.to[coarse_y]; ++y) {
      const V weight = V::fill(rows_.weight(y, coarse_y));
      const S* from = grad + (picture * call_.h + y) * wide;
      for (int64_t i = 0; i < wide; i += size) fma(V::load(from + i), weight, V::load(row + i)).store(row + i);
    }
    to += (picture * call_.coarse_h + coarse_y) * scratch();
    for (int64_t place = 0; place < call_.coarse_w; ++place) {
      for (int64_t c = 0; c < lanes_; c += size) {
        V sum = V::fill(0);
        for (int64_t x = columns_.from[place]; x < columns_.to[place]; ++x)
          sum = fma(V::load(row + x * lanes_ + c), V::fill(columns_.weight(x, place)), sum);
        sum.store(to + place * lanes_ + c);
      }
    }
  }

 private:
  const GatedPointwise& call_;
  const int64_t lanes_;
  const Side rows_, columns_;
};

}  // namespace lightsr::gated

// A coarse map, enlarged bilinearly where it is needed: for the pixels of a block. As PyTorch does with corners not
// aligned: pixel i reads at (i + 1/2) coarse / fine - 1/2, not below 0, and the row or column after the last is the
// last.
#pragma once

#include <vector>

#include "../common/pixels.h"

namespace lightsr {

template <class S>
class Enlarge {
  struct Place {
    int64_t first, second;
    S weight;  // of the second
  };

 public:
  Enlarge(int64_t coarse_h, int64_t coarse_w, int64_t channels, int64_t h, int64_t w)
      : coarse_h_(coarse_h),
        coarse_w_(coarse_w),
        channels_(channels),
        w_(w),
        rows_(places(coarse_h, h)),
        columns_(places(coarse_w, w)) {}

  // Numbers that `row` below needs: a row of the coarse map.
  int64_t scratch() const { return coarse_w_ * channels_; }

  // The block's pixels of a map [N, coarse_h, coarse_w, channels] into a buffer.
  void operator()(const Block& block, const S* coarse, Rows<S> to, S* row) const {
    coarse += block.picture * coarse_h_ * scratch();
    for (int64_t done = 0; done < block.count;) {
      const int64_t y = (block.pixel + done) / w_, x = (block.pixel + done) % w_;
      const int64_t many = std::min(w_ - x, block.count - done);
      const Place& at = rows_[y];
      const S *above = coarse + at.first * scratch(), *below = coarse + at.second * scratch();
      const int64_t from = columns_[x].first * channels_, end = (columns_[x + many - 1].second + 1) * channels_;
      for (int64_t i = from; i < end; ++i) row[i] = above[i] * (S(1) - at.weight) + below[i] * at.weight;
      if (block.planes)
        for (int64_t c = 0; c < channels_; ++c) across(row + c, columns_.data() + x, many, to.at(c, done));
      else
        for (int64_t i = 0; i < many; ++i) along(row, columns_[x + i], to.at(done + i, 0));
      done += many;
    }
  }

 private:
  void across(const S* row, const Place* places, int64_t many, S* to) const {
    for (int64_t i = 0; i < many; ++i) {
      const Place& at = places[i];
      to[i] = row[at.first * channels_] * (S(1) - at.weight) + row[at.second * channels_] * at.weight;
    }
  }
  void along(const S* row, const Place& at, S* to) const {
    const S *left = row + at.first * channels_, *right = row + at.second * channels_;
    for (int64_t c = 0; c < channels_; ++c) to[c] = left[c] * (S(1) - at.weight) + right[c] * at.weight;
  }

  static std::vector<Place> places(int64_t coarse, int64_t fine) {
    std::vector<Place> found(fine);
    const S scale = S(coarse) / S(fine);
    for (int64_t i = 0; i < fine; ++i) {
      const S at = std::max(S(0), (S(i) + S(0.5)) * scale - S(0.5));
      const int64_t first = std::min(int64_t(at), coarse - 1);
      found[i] = {first, std::min(first + 1, coarse - 1), std::clamp(at - S(first), S(0), S(1))};
    }
    return found;
  }

  int64_t coarse_h_, coarse_w_, channels_, w_;
  std::vector<Place> rows_, columns_;
};

}  // namespace lightsr

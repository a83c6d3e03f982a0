// split_distillation of a 3 x 3 convolution that nobody else reads: the end of Winograd's tiles.
//
// All channels of a row of pixels, up to twice as many as a task has tiles, come as sums in the cache, and go through
// what a block of pixels goes through (cpu_forward.h). So the convolution's result is never in memory, and has the
// precision of its sums.
#pragma once

#include "../dense_conv/cpu_winograd.h"
#include "cpu_forward.h"

namespace lightsr::distillation {

template <class T, bool last>
class EndOfConvolution {
  using S = Wide<T>;

  struct Sums {
    Rows<const S> rows;
    template <class, class... Part>
    Vec<S> load(int64_t row, int64_t column, Part...) const {
      return Vec<S>::load(rows.at(row, column));
    }
  };

 public:
  static constexpr bool all_channels = true;

  EndOfConvolution(const DenseConv& convolution, const SplitDistillation& call)
      : w_(convolution.w), call_(call), forward_(call), rest_(forward_.parameters().written()) {}

  int64_t bytes(int64_t pixels) const { return std::get<2>(buffers(nullptr, pixels)); }

  void add_results(const dense::Run& run, Ahead& ahead) const {
    if (forward_.parameters().past) return;
    add(static_cast<const T*>(call_.distilled_out), call_.distilled, run, ahead);
    add(static_cast<const T*>(call_.remaining), rest_, run, ahead);
    if (call_.activated) add(static_cast<const T*>(call_.activated), call_.split, run, ahead);
  }

  // Pixels beside each other, their channels (last: the pixels themselves) `step` apart.
  void all(const dense::Run& run, const S* sums, int64_t step, char* memory) const {
    const Block block{!last, run.n, run.y * w_ + run.x, run.count};
    const auto [h, d, _] = buffers(memory, run.count);
    const auto input = [&](int64_t first) {
      return forward_.parameters().input(block, first, Sums{block.from_channel(Rows<const S>{sums, step}, first)});
    };
    Ahead none;
    forward_.block(block, input, h, d, none);
  }

 private:
  std::tuple<Operand<T>, Operand<T>, int64_t> buffers(char* from, int64_t pixels) const {
    Arena arena(from);
    const Operand<T> h(arena, !last, call_.split, pixels);
    const Operand<T> d(arena, !last, call_.distilled, pixels);
    return {h, d, arena.used(from)};
  }
  void add(const T* picture, int64_t channels, const dense::Run& run, Ahead& ahead) const {
    if (channels == 0) return;
    dense::add_pixels<T, last>(picture + run.n * channels * call_.pixels, channels, call_.pixels, run.y * w_ + run.x,
                               run.count, ahead);
  }

  int64_t w_;
  const SplitDistillation& call_;
  Forward<T> forward_;
  int64_t rest_;
};

}  // namespace lightsr::distillation

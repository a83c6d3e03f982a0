// large_kernel_attention on the CPU.
//
// The work goes in pieces whose t, for all channels, stays in the caches: whole pictures, or a band of rows of one. For
// each piece first the field, a task for each channel and band of rows (cpu_field.h): rows of x into a buffer padded
// with zeros, the near convolution of these, and of as many rows more as the far one sees above and below, into a
// second one that is zero outside the picture, the far convolution of that to t. Then the mix, a task for each block of
// pixels (cpu_mix.h): both 1x1 convolutions, y between them in a buffer. channels_last pictures are turned into planes
// on the way into the padded rows, and that is all they need; the mix writes them as they lie in memory.
// 16-bit types are widened as they are read and rounded once, at the end. How the work is cut changes no result.
//
// Bound: kh1 kw1 + kh2 kw2 + C (+ C) multiply-adds a number, 12 bytes a number through the caches beside it.
#include <numeric>

#include "../common/by_type.h"
#include "../common/parallel.h"
#include "../common/pixels.h"
#include "arguments.h"
#include "cpu_field.h"
#include "cpu_mix.h"
#include "cpu_rows.h"

namespace lightsr {
namespace {

using namespace attention;

constexpr int64_t piece_numbers = 1 << 19;  // of t, for two threads
constexpr int64_t block_numbers = 1 << 15;  // of y
constexpr int64_t band_numbers = 1 << 17;   // of the buffer between the convolutions

template <class S>
int64_t apart(int64_t count) {
  return round_up_odd(count, per_line<S>);
}

// The filters of one of the convolutions, without the taps that lie outside the picture wherever they are put.
template <class S, class T>
class Filters {
 public:
  Filters(const void* weight, const void* bias, int64_t channels, int kh, int kw, int64_t dilation, int64_t h,
          int64_t w)
      : dilation_(dilation), kh_(seen(kh, h)), kw_(seen(kw, w)), taps_(channels * kh_ * kw_), bias_(channels) {
    const int top = (kh - kh_) / 2, left = (kw - kw_) / 2;
    for (int64_t c = 0; c < channels; ++c) {
      for (int i = 0; i < kh_; ++i) {
        widen(taps_.data() + (c * kh_ + i) * kw_, static_cast<const T*>(weight) + (c * kh + top + i) * kw + left, kw_);
      }
    }
    std::fill_n(bias_.data(), channels, S(0));
    if (bias) widen(bias_.data(), static_cast<const T*>(bias), channels);
  }
  Filter<S> of(int64_t c) const { return {kh_, kw_, dilation_, taps_.data() + c * kh_ * kw_, bias_.data()[c]}; }
  int64_t above() const { return kh_ / 2 * dilation_; }
  int64_t left() const { return kw_ / 2 * dilation_; }

 private:
  int seen(int k, int64_t length) const {
    return 2 * static_cast<int>(std::min<int64_t>(k / 2, (length - 1) / dilation_)) + 1;
  }
  int64_t dilation_;
  int kh_, kw_;
  Memory<S> taps_, bias_;
};

// A 1x1 convolution, or nothing for no channels: its matrix with input channels in rows, each row filled up with zeros
// to whole tiles.
template <class S, class T>
struct Matrix {
  Matrix(const void* weight, const void* bias, int64_t channels)
      : step(round_up(channels, std::max(Vec<S>::size, mix_rows))),
        numbers(channels * step),
        biases(channels),
        bias(bias ? biases.data() : nullptr) {
    std::fill_n(numbers.data(), channels * step, S(0));
    Memory<S> row(channels);
    for (int64_t out = 0; out < channels; ++out) {
      widen(row.data(), static_cast<const T*>(weight) + out * channels, channels);
      for (int64_t in = 0; in < channels; ++in) numbers.data()[in * step + out] = row.data()[in];
    }
    if (bias) widen(biases.data(), static_cast<const T*>(bias), channels);
  }
  int64_t step;
  Memory<S> numbers, biases;
  const S* bias;
};

// Pictures and rows whose t is made at once.
struct Piece {
  int64_t picture, pictures, row, rows;
};

template <class T>
class Attention {
  using S = Wide<T>;
  static constexpr int size = Vec<S>::size;
  static constexpr int64_t slack = mix_vectors * size + mix_rows;

 public:
  explicit Attention(const LargeKernelAttention& call)
      : call_(call),
        last_(call.channels_last && call.c > 1),
        near_(call.weight1, call.bias1, call.c, call.kh1, call.kw1, 1, call.h, call.w),
        far_(call.weight2, call.bias2, call.c, call.kh2, call.kw2, call.dilation, call.h, call.w),
        mix_(call.mix_weight, call.mix_bias, call.c),
        out_(call.out_weight, call.out_bias, call.out_weight ? call.c : 0),
        past_(past_cache<T>(call.n * call.c * call.h * call.w, last_ ? call.c : call.h * call.w)) {}

  void run() {
    const int64_t picture = call_.c * call_.h * call_.w;
    const int64_t numbers = std::max<int64_t>(2, torch::stable::get_num_threads()) * (piece_numbers / 2);
    const int64_t pictures = std::clamp<int64_t>(numbers / picture, 1, call_.n);
    const int64_t fewest = std::max<int64_t>(16, 6 * far_.above());
    const int64_t most = std::max(fewest, numbers / (call_.c * call_.w));
    const int64_t rows = ceil_div(call_.h, ceil_div(call_.h, std::min(most, call_.h)));
    x_step_ = apart<S>(lead(near_) + round_up(call_.w, size) + near_.left());
    x_plane_ = last_ ? apart<S>((rows + 2 * (near_.above() + far_.above())) * x_step_) : 0;
    t_plane_ = apart<S>(rows * call_.w + slack);
    const Memory<S> x(pictures * call_.c * x_plane_), t(pictures * call_.c * t_plane_);
    x_ = x.data();
    t_ = t.data();
    for (int64_t n = 0; n < call_.n; n += pictures) {
      for (int64_t row = 0; row < call_.h; row += rows) {
        const Piece piece{n, std::min(pictures, call_.n - n), row, std::min(rows, call_.h - row)};
        if (last_) turn(piece);
        field(piece);
        mix(piece);
      }
    }
  }

 private:
  // Channels of the piece's pictures and the rows around them become padded planes.
  void turn(const Piece& piece) const {
    const int64_t around = near_.above() + far_.above(), rows = piece.rows + 2 * around, c = call_.c, w = call_.w;
    run_tasks(piece.pictures * rows, [&](int64_t task) {
      const int64_t n = task / rows, row = task % rows, y = piece.row - around + row;
      const T* from = nullptr;
      if (y >= 0 && y < call_.h) from = static_cast<const T*>(call_.x) + ((piece.picture + n) * call_.h + y) * w * c;
      pad_pixels(x_ + n * c * x_plane_ + row * x_step_ + skipped(near_), x_plane_, from, c, w, near_.left());
    });
  }

  void field(const Piece& piece) const {
    const int64_t planes = piece.pictures * call_.c, step = between_step();
    const int64_t around = 2 * far_.above(), threads = torch::stable::get_num_threads();
    const int64_t fit = std::max(band_numbers / step - around, std::max<int64_t>(16, around));
    const int64_t fair = std::max(ceil_div(piece.rows * planes, threads), std::max<int64_t>(16, around / 2));
    const int64_t bands = ceil_div(piece.rows, std::min(fit, fair)), rows = ceil_div(piece.rows, bands);
    const int64_t padded = last_ ? 0 : round_up((rows + around + 2 * near_.above()) * x_step_, per_line<S>);
    run_tasks(planes * bands, [&](int64_t task) {
      S* memory = scratch<S>(padded + (rows + around) * step);
      const int64_t row = task % bands * rows, next = (task + 1) % bands * rows;
      if (row < piece.rows) {
        band(piece, task / bands, row, std::min(rows, piece.rows - row), memory, memory + padded,
             soon(piece, (task + 1) / bands, next));
      }
    });
  }

  // The rows that a band begins with, of a plane that may be one more than there are.
  Soon soon(const Piece& piece, int64_t plane, int64_t row) const {
    if (last_) {
      const S* from = x_ + plane * x_plane_ + row * x_step_;
      return {reinterpret_cast<const char*>(from), x_step_ * int64_t(sizeof(S)), size * int64_t(sizeof(S))};
    }
    const int64_t first = std::max<int64_t>(piece.row + row - far_.above() - near_.above(), 0);
    const T* from = static_cast<const T*>(call_.x) + ((piece.picture * call_.c + plane) * call_.h + first) * call_.w;
    return {reinterpret_cast<const char*>(from), call_.w * int64_t(sizeof(T)), size * int64_t(sizeof(T))};
  }

  // Rows of t in one plane; `row` counts from the piece's first.
  void band(const Piece& piece, int64_t plane, int64_t row, int64_t rows, S* padded, S* between,
            const Soon& soon) const {
    const int64_t c = plane % call_.c, h = call_.h, w = call_.w, step = between_step(), left = far_.left();
    const int64_t first = piece.row + row - far_.above(), last = piece.row + row + rows + far_.above();
    const int64_t begin = std::max<int64_t>(first, 0), end = std::min(last, h);  // those of first..last in the picture
    const int64_t above = near_.above();
    if (last_) {
      padded = x_ + plane * x_plane_ + (begin - (piece.row - far_.above())) * x_step_;
    } else {
      const T* x = static_cast<const T*>(call_.x) + (piece.picture * call_.c + plane) * h * w;
      for (int64_t y = begin - above; y < end + above; ++y) {
        S* to = padded + (y - begin + above) * x_step_ + skipped(near_);
        pad_row(to, y >= 0 && y < h ? x + y * w : nullptr, w, near_.left());
      }
    }
    std::fill_n(between, (begin - first) * step, S(0));
    std::fill_n(between + (end - first) * step, (last - end) * step, S(0));
    padded += skipped(near_);
    between += skipped(far_);
    for (int64_t y = begin; y < end; ++y) {
      S* at = between + (y - first) * step;
      std::fill_n(at, left, S(0));
      std::fill_n(at + left + w, left, S(0));
    }
    convolve_rows<S>({padded, x_step_}, near_.of(c), {between + (begin - first) * step + left, step}, end - begin, w,
                     soon);
    convolve_rows<S>({between, step}, far_.of(c), {t_ + plane * t_plane_ + row * w, w}, rows, w);
  }

  // Numbers of the picture begin at cache lines, the zeros that a filter sees to their left somewhere before.
  static int64_t lead(const Filters<S, T>& filters) { return round_up(filters.left(), per_line<S>); }
  static int64_t skipped(const Filters<S, T>& filters) { return lead(filters) - filters.left(); }
  int64_t between_step() const { return apart<S>(lead(far_) + round_up(call_.w, size) + far_.left()); }

  void mix(const Piece& piece) const {
    constexpr int64_t tile = std::lcm(mix_vectors * size, mix_rows);
    const int64_t pixels = piece.rows * call_.w, c = call_.c;
    const int64_t fair = ceil_div(piece.pictures * pixels, torch::stable::get_num_threads() * tile);
    const int64_t block = std::clamp<int64_t>(std::min(fair, block_numbers / c / tile), 1, 64) * tile;
    const int64_t blocks = ceil_div(pixels, block), tasks = piece.pictures * blocks;
    const int64_t y_numbers = round_up(last_ ? (block + mix_rows) * mix_.step : (c + mix_rows) * block, per_line<S>);
    run_tasks(tasks, [&](int64_t task) {
      S* y = scratch<S>(y_numbers + (call_.parts ? block * c : 0));
      T* joined = reinterpret_cast<T*>(y + y_numbers);
      const auto pixels_of = [&](int64_t which) {
        const int64_t n = which / blocks, pixel = which % blocks * block;
        return Block{!last_, piece.picture + n, piece.row * call_.w + pixel, std::min(block, pixels - pixel)};
      };
      const auto t_of = [&](int64_t which) { return t_ + which / blocks * c * t_plane_ + which % blocks * block; };
      Ahead ahead;
      if (task + 1 < tasks) ask_for(pixels_of(task + 1), t_of(task + 1), ahead);
      const Block here = pixels_of(task);
      const Rows<const T> residual = residual_of(here, block, joined);
      if (last_) {
        mix_last(t_of(task), here, residual, y, ahead);
      } else {
        mix_planes(t_of(task), here, residual, block, y, ahead);
      }
    });
  }

  // A picture like x.
  Slice dense(const void* data) const {
    const int64_t pixels = call_.h * call_.w;
    return {data, call_.c * pixels, last_ ? call_.c : pixels};
  }

  void ask_for(const Block& next, const S* t, Ahead& ahead) const {
    next.ask_for<T>(dense(call_.x), call_.c, ahead);
    ahead.add(t, t_plane_ * int64_t(sizeof(S)), next.count * int64_t(sizeof(S)), call_.c);
    if (call_.residual) next.ask_for<T>(dense(call_.residual), call_.c, ahead);
    for (int64_t k = 0; k < call_.parts; ++k) next.ask_for<T>(call_.part[k], call_.part_channels[k], ahead);
  }

  // Of a block of pixels: where it lies, or its parts put together; null for none.
  Rows<const T> residual_of(const Block& pixels, int64_t block, T* joined) const {
    if (!call_.parts) return pixels.of<T>(dense(call_.residual));
    const Rows<T> all{joined, last_ ? call_.c : block};
    for (int64_t k = 0, first = 0; k < call_.parts; first += call_.part_channels[k++]) {
      const Rows<const T> from = pixels.of<T>(call_.part[k]);
      const Rows<T> to = pixels.from_channel(all, first);
      const int64_t rows = pixels.rows(call_.part_channels[k]), wide = pixels.columns(call_.part_channels[k]);
      for (int64_t row = 0; row < rows; ++row) std::copy_n(from.at(row, 0), wide, to.at(row, 0));
    }
    return {all.data, all.step};
  }

  void mix_planes(const S* t, const Block& pixels, Rows<const T> residual, int64_t block, S* y, Ahead& ahead) const {
    const int64_t c = call_.c, step = mix_.step;
    Finish<T, S> first = gated(mix_.bias, pixels), second = ended(out_.bias, pixels, residual);
    join(first, second, y, block);
    multiply<T, S>({mix_.numbers.data(), 1, step, t, t_plane_, c}, first, c, pixels.count, ahead);
    if (!call_.out_weight) return;
    multiply<T, S>({out_.numbers.data(), 1, step, y, block, c}, second, c, pixels.count, ahead);
  }

  void mix_last(const S* t, const Block& pixels, Rows<const T> residual, S* y, Ahead& ahead) const {
    const int64_t c = call_.c, step = mix_.step;
    Finish<T, S> first = gated(mix_.bias, pixels), second = ended(out_.bias, pixels, residual);
    join(first, second, y, step);
    multiply<T, S>({t, 1, t_plane_, mix_.numbers.data(), step, c}, first, pixels.count, c, ahead);
    if (!call_.out_weight) return;
    multiply<T, S>({y, step, 1, out_.numbers.data(), step, c}, second, pixels.count, c, ahead);
  }

  Finish<T, S> gated(const S* bias, const Block& pixels) const {
    const Rows<const T> x = pixels.of<T>(dense(call_.x));
    return {bias, !last_, x.data, x.step, nullptr, 0, nullptr, past_, nullptr, 0};
  }

  Finish<T, S> ended(const S* bias, const Block& pixels, Rows<const T> residual) const {
    const Rows<T> out = pixels.of<T>(call_.out, call_.c, call_.h * call_.w);
    return {bias, !last_, nullptr, out.step, residual.data, residual.step, out.data, past_, nullptr, 0};
  }

  // With a second product the first one's results go to the block, else to where the second one's would have gone.
  void join(Finish<T, S>& first, const Finish<T, S>& second, S* y, int64_t step) const {
    if (call_.out_weight) {
      first.block = y;
      first.block_step = step;
    } else {
      first.residual = second.residual;
      first.residual_step = second.residual_step;
      first.out = second.out;
    }
  }

  const LargeKernelAttention& call_;
  const bool last_;  // channels_last; with one channel the layouts are the same
  const Filters<S, T> near_, far_;
  const Matrix<S, T> mix_, out_;
  const bool past_;  // whether results go past the caches
  S *x_ = nullptr, *t_ = nullptr;
  int64_t x_step_ = 0, x_plane_ = 0, t_plane_ = 0;
};

}  // namespace

void large_kernel_attention_forward_cpu(const LargeKernelAttention& call) {
  by_type(call.type, [&]<class T>() { Attention<T>(call).run(); });
}

}  // namespace lightsr

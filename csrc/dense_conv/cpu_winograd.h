// 3 x 3 convolutions by 16 multiplications for 4 results instead of 36 (Winograd's F(2 x 2, 3 x 3); Lavin and Gray,
// arXiv 1509.09308).
//
// A tile is 2 x 2 results; they read 4 x 4 pixels d. With g the 3 x 3 filter, all for each pair of channels,
//   results = A' [ sum over channels of (G g G') * (B' d B) ] A
//   B' d = d0 - d2, d1 + d2, d2 - d1, d1 - d3     G g = g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2
//   A' m = m0 + m1 + m2, m1 - m2 - m3
// so for each of the 16 places there is a matrix product over the channels. The first result of a pair needs no d3, the
// second no d0: no number from outside its 3 x 3 pixels gets into a result, not even by rounding. Tiles begin at even
// rows and columns, and the sums run over the channels in order whatever the size of the picture.
//
// A task takes as many tiles as a product has columns, 48 of floats with AVX-512, from rows one after the other. Its
// transformed pixels [16][C][tiles] and their products [16][C_out][tiles] stay in the L2 cache; [16][tiles][C] and so
// on where pictures lie as [N, H, W, C], where channels are in the vectors. Where a result is not finite it is summed
// up again directly (cpu_repair.h), because differences of infinities are no numbers. What becomes of results is the
// business of End: Finish (cpu_finish.h), or another op's that needs all channels of a pixel at once.
#pragma once

#include "../common/round.h"
#include "cpu_finish.h"
#include "cpu_input.h"
#include "cpu_repair.h"
#include "cpu_transform.h"

namespace lightsr::dense {

constexpr int64_t places = 16;

// Rows of products in blocks of product_rows, of which the first have one more where the last would have half as many
// or fewer: a tile for these takes the time of half a whole one and what every tile takes. A ninth row has room in 32
// registers.
struct RowBlocks {
  static constexpr int64_t few = level::registers >= 32 ? 4 : 0;
  int64_t rows, count, larger;
  explicit RowBlocks(int64_t rows) : rows(rows), count(rows / product_rows), larger(rows % product_rows) {
    if (larger > std::min(few, count)) ++count, larger = 0;
  }
  int64_t first(int64_t block) const { return block * product_rows + std::min(block, larger); }
  int64_t size(int64_t block) const { return product_rows + (block < larger); }
  int64_t there(int64_t block) const { return std::min(size(block), rows - first(block)); }
};

template <class E, class S, bool last, class End>
class Winograd {
  static constexpr int size = Vec<E>::size;
  // Tiles of a task; where they are rows of products, whole blocks of rows.
  static constexpr int64_t unit = last ? product_rows : 1;
  static constexpr int64_t wide = (product_vectors * size + unit - 1) / unit * unit;
  static constexpr int64_t line = per_line<E>;
  static constexpr int64_t row_step = 2 * wide + line;
  static constexpr int64_t zeros = 2 * wide + 3 * size;  // a row outside the picture

 public:
  template <class... Given>  // what End takes beside the call
  explicit Winograd(const DenseConv& call, const Given&... given)
      : call_(call),
        end_(call, given...),
        filters_(call),
        rows_((call.h + 1) / 2),
        columns_((call.w + 1) / 2),
        ins_(last ? round_up(call.c, size) : call.c),
        outs_(round_up(call.outs, last ? std::max(size, product_rows) : product_rows)),
        blocks_(last ? outs_ : call.outs),
        in_place_(round_up_odd(ins_ * wide, line)),
        out_place_(round_up_odd(outs_ * wide, line)),
        row_room_(last ? (End::all_channels ? 2 * wide : 2) * outs_ : row_step),
        together_(together()),
        room_(2 * row_room_ * (last ? 1 : together_)),
        factor_place_(round_up_odd(ins_ * outs_, line)),
        factors_(places * factor_place_),
        zeros_(last ? 0 : zeros) {
    if (!last) std::fill_n(zeros_.data(), zeros, S(0));
    run_tasks(blocks_.count, [&](int64_t task) {
      blocks_.size(task) > product_rows ? pack<product_rows + 1>(blocks_.first(task))
                                        : pack<product_rows>(blocks_.first(task));
    });
  }

  void run() const {
    const int64_t tiles = call_.n * rows_ * columns_;
    run_tasks((tiles + wide - 1) / wide, [&](int64_t task) { run(task * wide, std::min((task + 1) * wide, tiles)); });
  }

 private:
  void run(int64_t begin, int64_t end) const {
    const int64_t numbers = places * (in_place_ + out_place_) + room_ + line;
    Arena arena(scratch<char>(numbers * static_cast<int64_t>(sizeof(E)) + end_.bytes(2 * wide)));
    E* pixels = arena.take<E>(places * in_place_);
    E* products = arena.take<E>(places * out_place_);
    E* rows = arena.take<E>(room_);
    char* more = arena.take<char>(0);
    if (end - begin < wide) std::fill_n(pixels, places * in_place_, E(0));
    every_run(begin, end, rows_, columns_, [&](const Run& run) { take(run, pixels); });
    Ahead ahead;
    every_run(begin, end, rows_, columns_,
              [&](const Run& run) { every_row(run, [&](int64_t, const Run& row) { end_.add_results(row, ahead); }); });
    const int64_t next = begin + wide, all = call_.n * rows_ * columns_;
    if (next < all) {
      every_run(next, std::min(next + wide, all), rows_, columns_, [&](const Run& run) { ask_for_pixels(run, ahead); });
    }
    multiply(pixels, products, end - begin, ahead);
    const int64_t step = round_up(end - begin, size);
    Vec<E> probe = Vec<E>::fill(0);
    every_run(begin, end, rows_, columns_,
              [&](const Run& run) { give(run, products, step, rows, more, probe, nullptr); });
    if (sum(probe) == 0) return;
    every_run(begin, end, rows_, columns_, [&](const Run& run) {
      Repair<E, S, last> repair(call_, filters_, run);
      give(run, products, step, rows, more, probe, &repair);
    });
  }

  // The factors of a block of output channels, as products read them: [place][block][C][of the block], or where
  // channels are in the vectors [place][C][outs].
  template <int64_t block>
  void pack(int64_t begin) {
    for (int64_t in = 0; in < call_.c; ++in) {
      double taps[9][block] = {};
      for (int64_t i = 0; i < std::min(block, call_.outs - begin); ++i)
        for (int tap = 0; tap < 9; ++tap) taps[tap][i] = filters_.at(begin + i, in, tap);
      E* to = factors_.data() + (last ? in * outs_ + begin : begin * ins_ + in * block);
      transform_filters(taps, to, factor_place_);
    }
  }

  // How many channels of results are handed over at once.
  int64_t together() const {
    if constexpr (End::all_channels) {
      return outs_;
    } else {
      return end_.together();
    }
  }

  const S* picture(int64_t n) const { return static_cast<const S*>(call_.x) + n * call_.c * call_.h * call_.w; }

  // The transformed pixels of a run of tiles.
  void take(const Run& run, E* pixels) const {
    const int64_t y = 2 * run.y - 1, x = 2 * run.x - 1;
    if constexpr (last) {
      const S* from = picture(run.n);
      for (int64_t tile = 0; tile < run.count; ++tile) {
        const S* pixel[4][4];
        for (int i = 0; i < 4; ++i) {
          for (int j = 0; j < 4; ++j) {
            const int64_t row = y + i, column = x + 2 * tile + j;
            const bool inside = row >= 0 && row < call_.h && column >= 0 && column < call_.w;
            pixel[i][j] = inside ? from + (row * call_.w + column) * call_.c : nullptr;
          }
        }
        transform_pixels<E, S>(pixel, call_.c, pixels + (run.at + tile) * ins_, in_place_);
      }
    } else {
      const int64_t begin = std::max<int64_t>(x, 0), area = call_.h * call_.w;
      const S* from = picture(run.n) + y * call_.w + begin;
      for (int64_t i = 0; i < call_.c; ++i, from += area) {
        const S* row[4];
        for (int k = 0; k < 4; ++k) row[k] = y + k < 0 || y + k >= call_.h ? zeros_.data() : from + k * call_.w;
        transform_rows<E, S>(row, call_.w - begin, x < 0, run.count, pixels + i * wide + run.at, in_place_);
      }
    }
  }

  // Calls each(i, row) for the one or two rows of results of a run of tiles.
  template <class Each>
  void every_row(const Run& run, const Each& each) const {
    const int64_t y = 2 * run.y, x = 2 * run.x, width = std::min(2 * run.count, call_.w - x);
    for (int64_t i = 0; i < std::min<int64_t>(2, call_.h - y); ++i) each(i, Run{run.n, y + i, x, width, 0});
  }

  // Asks for the pixels of a run that is likely to be this thread's next.
  void ask_for_pixels(const Run& run, Ahead& ahead) const {
    for (int64_t row = std::max<int64_t>(2 * run.y - 1, 0); row < std::min(2 * run.y + 3, call_.h); ++row) {
      const int64_t pixel = row * call_.w + 2 * run.x - 1;
      add_pixels<S, last>(picture(run.n), call_.c, call_.h * call_.w, pixel, 2 * run.count + 2, ahead);
    }
  }

  void multiply(const E* pixels, E* products, int64_t tiles, Ahead& ahead) const {
    // As late as there are steps enough for all lines: sooner, and the cache has lost them when they are needed.
    const int64_t blocks = last ? ceil_div(tiles, product_rows) : blocks_.count;
    const int64_t steps = blocks * ceil_div((last ? outs_ : wide) / size, product_vectors);
    const int64_t late = places - (ahead.lines() + steps * call_.c - 1) / (steps * call_.c);
    for (int64_t place = 0; place < places; ++place) {
      Ahead* soon = place >= late ? &ahead : nullptr;
      const E* factors = factors_.data() + place * factor_place_;
      const E* in = pixels + place * in_place_;
      E* out = products + place * out_place_;
      if constexpr (last) {
        const Product<E> product{in, ins_, 1, factors, outs_, call_.c};
        for (int64_t tile = 0; tile < tiles; tile += product_rows) {
          every_group<size>(outs_, [&](int64_t first, int64_t many) {
            const bool half = tiles - tile <= product_rows / 2;
            tiled(product, tile, first, half, many / size, out + tile * outs_ + first * product_rows, soon);
          });
        }
      } else {
        const int64_t vectors = (tiles + size - 1) / size;
        for (int64_t block = 0; block < blocks_.count; ++block) {
          const int64_t row = blocks_.first(block), many = blocks_.size(block);
          const Product<E> product{factors + row * ins_, 1, many, in, wide, call_.c};
          E* const to = out + row * wide;
          if (many > product_rows)
            tiled<product_rows + 1>(product, 0, 0, false, vectors, to, soon);
          else
            tiled(product, 0, 0, blocks_.there(block) <= product_rows / 2, vectors, to, soon);
        }
      }
    }
  }

  // A sum over many channels is one of sums over so many each, which rounds less.
  template <int64_t rows = product_rows>
  static void tiled(const Product<E>& all, int64_t row, int64_t column, bool half, int64_t vectors, E* out,
                    Ahead* ahead) {
    constexpr int64_t most = 64;
    alignas(64) E more[rows * wide];
    for (int64_t k = 0; k < all.depth; k += most) {
      const Product<E> part{all.rows + k * all.row_step,       all.row,         all.row_step,
                            all.columns + k * all.column_step, all.column_step, std::min(most, all.depth - k)};
      E* to = k ? more : out;
      multiply_tile<rows>(part, row, column, half, vectors, to, vectors * size, ahead);
      const int64_t numbers = k ? (half ? rows / 2 : rows) * vectors * size : 0;
      for (int64_t i = 0; i < numbers; i += size) (Vec<E>::load(out + i) + Vec<E>::load(more + i)).store(out + i);
    }
  }

  // The results of a run of tiles; `repair` has those that are not finite.
  void give(const Run& run, const E* products, int64_t tile_step, E* rows, char* more, Vec<E>& probe,
            Repair<E, S, last>* repair) const {
    if constexpr (last) {
      for (int64_t tile = 0; tile < run.count; ++tile) {
        const int64_t at = run.at + tile, row = at % product_rows;
        E* mine = rows + (End::all_channels ? 2 * tile * outs_ : 0);
        every_group<size>(outs_, [&](int64_t first, int64_t many) {
          const E* from = products + (at - row) * outs_ + first * product_rows + row * many;
          for (int64_t i = 0; i < many; i += size) {
            const Results<E> found = results<E>(from + i, out_place_, probe);
            for (int64_t k = 0; k < 4; ++k)
              found.value[k / 2][k % 2].store(mine + k / 2 * row_room_ + k % 2 * outs_ + first + i);
          }
        });
        every_row(Run{run.n, run.y, run.x + tile, 1, 0}, [&](int64_t i, const Run& pixels) {
          E* sums = mine + i * row_room_;
          for (int64_t j = 0; repair && j < pixels.count; ++j) repair->pixel(i, 2 * tile + j, sums + j * outs_);
          if constexpr (!End::all_channels) end_.pixels(pixels, 0, call_.outs, sums, outs_);
        });
      }
    } else {
      const int64_t step = 2 * row_room_;
      const auto channel = [&](int64_t out, const E* from) {
        const int64_t place = out % together_;
        E* mine = rows + place * step;
        for (int64_t tile = 0; tile < run.count; tile += size) {
          const Results<E> found = results<E>(from + tile, out_place_, probe);
          for (int i = 0; i < 2; ++i) {
            E* to = mine + i * row_room_ + 2 * tile;
            found.template zipped<false>(i).store(to);
            found.template zipped<true>(i).store(to + size);
          }
        }
        every_row(run, [&](int64_t i, const Run& row) {
          E* sums = mine + i * row_room_;
          if (repair) repair->row(i, out, row.count, sums);
          if constexpr (!End::all_channels)
            if (place == together_ - 1) end_.channels(row, out - place, together_, sums - place * step, step);
        });
      };
      for (int64_t block = 0; block < blocks_.count; ++block) {
        const int64_t first = blocks_.first(block);
        for (int64_t i = 0; i < blocks_.there(block); ++i)
          channel(first + i, products + first * wide + i * tile_step + run.at);
      }
    }
    if constexpr (End::all_channels) {
      every_row(run, [&](int64_t i, const Run& row) {
        end_.all(row, rows + i * row_room_, last ? outs_ : 2 * row_room_, more);
      });
    }
  }

  const DenseConv& call_;
  End end_;
  Filters<E, S> filters_;
  int64_t rows_, columns_;  // of tiles
  int64_t ins_, outs_;
  RowBlocks blocks_;  // of output channels
  int64_t in_place_, out_place_, row_room_, together_, room_, factor_place_;
  Aligned<E> factors_;
  Aligned<S> zeros_;
};

}  // namespace lightsr::dense

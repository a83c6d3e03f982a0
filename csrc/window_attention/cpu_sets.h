// The sets of a picture, by index arithmetic, and runs of neighbouring ones.
//
// Token (i, j) of set (y, x) is pixel (y window + i, x window + j) of a window, (i rows + y, j columns + x) of a grid
// set. So sets that are neighbours in x hold neighbouring pixels in both: a row of `window` from each, or one from
// each, and a whole row of the picture where all of a row's grid sets are there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "../common/parallel.h"

namespace lightsr {

struct Sets {
  bool grid;
  int64_t window, w, rows, columns;  // w: of the picture; rows of sets, and columns
  int64_t tokens;                    // of a set
  int64_t run;                       // sets of a task, at most
  int64_t runs;                      // in a row of sets
  int64_t side;                      // tokens of each set in a stretch of neighbours
  std::vector<int64_t> offsets;      // of each token's pixel from the set's first
  struct Place {
    int64_t set, token;
  };
  std::vector<Place> places;  // of each pixel in a stretch, from the run's first set and the stretch's token

  // How many sets of so many bytes make a run whose rows stay in the L2 cache. From planes a grid set takes a number
  // here and there, and those between belong to its neighbours: so more of them.
  static int64_t fit(bool grid, bool planes, int64_t bytes) { return (grid && planes ? 1 << 19 : 1 << 17) / bytes; }

  // As many sets in a run as `fit`, and where pixels are read in vectors of `unit`, whole ones if possible.
  Sets(bool grid, int64_t window, int64_t h, int64_t w, int64_t fit, int64_t unit)
      : grid(grid), window(window), w(w), rows(h / window), columns(w / window), tokens(window * window) {
    const int64_t many = grid ? unit : (unit + window - 1) / window;  // sets that fill a vector
    run = std::clamp<int64_t>(fit, 1, columns);
    if (run > many && run < columns) run -= run % many;
    runs = (columns + run - 1) / run;
    const int64_t even = (columns + runs - 1) / runs;
    run = std::min(run, (even + many - 1) / many * many);
    side = grid && run < columns ? 1 : window;
    for (int64_t p = 0; p < run * side; ++p) {
      places.push_back(grid ? Place{p % run, p / run} : Place{p / side, p % side});
    }
    for (int64_t i = 0; i < window; ++i) {
      for (int64_t j = 0; j < window; ++j) offsets.push_back(grid ? i * rows * w + j * columns : i * w + j);
    }
  }

  struct Run {
    int64_t picture, set;  // the first set's number among all
    int64_t pixel;         // its first pixel
    int64_t count;
  };
  int64_t tasks(int64_t n) const { return n * rows * runs; }
  Run at(int64_t task) const {
    const int64_t x = task % runs * run, row = task / runs, y = row % rows;
    return {row / rows, row * columns + x, grid ? y * w + x : y * window * w + x * window, std::min(run, columns - x)};
  }
  // The run that the thread with this one is likely to have next, if any.
  std::optional<Run> after(int64_t task, int64_t n) const {
    return task + 1 < tasks(n) ? std::optional(at(task + 1)) : std::nullopt;
  }
  int64_t step() const { return grid ? 1 : window; }  // from a set's first pixel to its neighbour's

  // Calls each(pixel, count, place) for each stretch of neighbouring pixels in a run, where place(p) is the row of its
  // pixel p in the run: rows of a set stand together, `slot` for each set.
  template <class Each>
  void stretches(const Run& run, int64_t slot, const Each& each) const {
    for (int64_t token = 0; token < tokens; token += side) {
      each(run.pixel + offsets[token], run.count * side,
           [=, places = places.data()](int64_t p) { return places[p].set * slot + token + places[p].token; });
    }
  }
};

}  // namespace lightsr

// The small maps of the gate, [N, H, W, lanes]: a pixel's channels side by side, so that they are the lanes of vectors,
// whatever the layout of pictures is. Blocks turn them where their own rows are channels.
#pragma once

#include "../common/pixel_product.h"
#include "arguments.h"

namespace lightsr::gated {

// A block's pixels of a map whose first pixel is the picture's first.
template <class S>
S* pixels_of(const Block& block, S* map, int64_t pixels, int64_t lanes) {
  return map + (block.picture * pixels + block.pixel) * lanes;
}

// The pixels of a map as a block has its rows. `room` [lanes channels] is where they are turned, if they have to be.
template <class S>
Rows<const S> from_map(const Block& block, const S* map, int64_t lanes, const Rows<S>& room) {
  constexpr int size = Vec<S>::size;
  if (!block.planes) return {map, lanes};
  for (int64_t p = 0; p < block.count; p += size) {
    transpose_rows<S>({map + p * lanes, lanes}, std::min<int64_t>(size, block.count - p), lanes,
                      {room.at(0, p), room.step});
  }
  return {room.data, room.step};
}

// `channels` channels of a block's buffer, to the pixels of a map.
template <class S>
void to_map(const Block& block, const Rows<const S>& from, int64_t channels, S* map, int64_t lanes) {
  constexpr int size = Vec<S>::size;
  if (!block.planes) {
    block.every<S>(channels, [=](int64_t row, int64_t column, auto... part) {
      Vec<S>::load(from.at(row, column), part...).store(map + row * lanes + column, part...);
    });
    return;
  }
  alignas(64) S turned[size * size];
  for (int64_t p = 0; p < block.count; p += size) {
    const int64_t here = std::min<int64_t>(size, block.count - p);
    for (int64_t c = 0; c < channels; c += size) {
      S* const to = map + p * lanes + c;
      const Rows<S> there = here == size ? Rows<S>{to, lanes} : Rows<S>{turned, size};
      transpose_rows<S>({from.at(c, p), from.step}, std::min<int64_t>(size, channels - c), size, there);
      for (int64_t i = 0; here < size && i < here; ++i) Vec<S>::load(turned + i * size).store(to + i * lanes);
    }
  }
}

}  // namespace lightsr::gated

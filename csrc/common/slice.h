// A picture, or a range of channels of a wider one.
#pragma once

#include <cstdint>

namespace lightsr {

// Channel c of pixel p of picture n stands at
//   data + n * picture + c * step + p   where pictures lie as [N, C, H, W]: pixels of a channel one behind the other
//   data + n * picture + p * step + c   where they lie as [N, H, W, C]: channels of a pixel one behind the other
struct Slice {
  const void* data;  // null: there is none
  int64_t picture, step;
};

}  // namespace lightsr

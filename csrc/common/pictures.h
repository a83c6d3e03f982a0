// Slices of torch's tensors, and the dense pictures and parameters that kernels write.
#pragma once

#include "slice.h"
#include "tensors.h"

namespace lightsr {

// A picture of `channels` channels with the pixels of x: dense in the layout, or some channels of a wider one.
inline Slice slice_of(const Tensor& each, const Tensor& x, int64_t channels, bool last, const char* name) {
  check_like(each, x, name);
  STD_TORCH_CHECK(each.dim() == 4 && each.size(0) == x.size(0) && each.size(1) == channels &&
                      each.size(2) == x.size(2) && each.size(3) == x.size(3),
                  name, " must have the pictures and pixels of x and ", channels, " channels");
  const int64_t h = each.size(2), w = each.size(3);
  int64_t step = last ? channels : h * w;
  bool fits;
  if (last) {
    if (w > 1) {
      step = each.stride(3);
    } else if (h > 1) {
      step = each.stride(2);
    }
    fits =
        (channels == 1 || each.stride(1) == 1) && step >= channels && (w == 1 || h == 1 || each.stride(2) == w * step);
  } else {
    if (channels > 1) step = each.stride(1);
    fits = (w == 1 || each.stride(3) == 1) && (h == 1 || each.stride(2) == w) && step >= h * w;
  }
  STD_TORCH_CHECK(fits || each.numel() == 0, name, " must be dense or a range of channels, in the layout of the call");
  return {each.const_data_ptr(), each.size(0) > 1 ? each.stride(0) : 0, step};
}

inline Slice slice_of(const MaybeTensor& each, const Tensor& x, int64_t channels, bool last, const char* name) {
  return each ? slice_of(*each, x, channels, last, name) : Slice{};
}

// A dense picture of `channels` channels with the pixels of x.
inline void* dense_picture(const Tensor& each, const Tensor& x, int64_t channels, bool last, const char* name) {
  check_like(each, x, name);
  STD_TORCH_CHECK(each.dim() == 4 && each.size(0) == x.size(0) && each.size(1) == channels &&
                      each.size(2) == x.size(2) && each.size(3) == x.size(3) &&
                      (last ? is_channels_last(each) : each.is_contiguous()),
                  name, " must be dense in the layout of the call, with the pixels of x and ", channels, " channels");
  return const_cast<void*>(each.const_data_ptr());
}

inline void* dense_picture(const MaybeTensor& each, const Tensor& x, int64_t channels, bool last, const char* name) {
  return each ? dense_picture(*each, x, channels, last, name) : nullptr;
}

// Memory for a parameter's gradient.
inline void* result(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  return const_cast<void*>(parameter(each, x, count, name));
}

}  // namespace lightsr

// csrc/common/tensor_cores.cuh on a CPU: the matrices put together from the lanes' fragments, multiplied, and dealt
// out.
#pragma once

#include "numbers_on_cpu.h"

namespace lightsr {
namespace on_cpu {

struct Rows {
  uint32_t* to;
  const void* row;
};

template <int matrices, bool transposed>
void load_matrix(const char* name, uint32_t* to, const void* row) {
  if (lane() < 8 * matrices) check_shared(name, row, 16, 16);
  Rows mine{to, row};
  warp_barrier(
      name,
      [](void* const* lanes) {
        uint16_t numbers[matrices][8][8];
        for (int each = 0; each < 8 * matrices; ++each) {
          std::memcpy(numbers[each / 8][each % 8], static_cast<Rows*>(lanes[each])->row, 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
          for (int matrix = 0; matrix < matrices; ++matrix) {
            const int one = lane / 4, two = lane % 4 * 2;
            const uint32_t low = transposed ? numbers[matrix][two][one] : numbers[matrix][one][two];
            const uint32_t high = transposed ? numbers[matrix][two + 1][one] : numbers[matrix][one][two + 1];
            static_cast<Rows*>(lanes[lane])->to[matrix] = high << 16 | low;
          }
        }
      },
      &mine);
}

struct Fragments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

template <class T>
float number(uint32_t pair, int which) {
  return to_sum(T{static_cast<uint16_t>(which ? pair >> 16 : pair)});
}

template <class T, int depth>
void mma(const char* name, float* d, const uint32_t* a, const uint32_t* b) {
  Fragments mine{d, a, b};
  warp_barrier(
      name,
      [](void* const* lanes) {
        float left[16][depth], right[depth][8];
        for (int lane = 0; lane < 32; ++lane) {
          const auto* each = static_cast<Fragments*>(lanes[lane]);
          const int group = lane / 4, first = lane % 4 * 2;
          for (int half = 0; half < 2; ++half) {
            for (int k = 0; k < depth; k += 8) {
              left[group][first + half + k] = number<T>(each->a[k / 4], half);
              left[group + 8][first + half + k] = number<T>(each->a[k / 4 + 1], half);
              right[first + half + k][group] = number<T>(each->b[k / 8], half);
            }
          }
        }
        for (int lane = 0; lane < 32; ++lane) {
          auto* each = static_cast<Fragments*>(lanes[lane]);
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = each->d[i];
            for (int k = 0; k < depth; ++k) sum += left[row][k] * right[k][column];
            each->d[i] = sum;
          }
        }
      },
      &mine);
}

}  // namespace on_cpu

inline void load_matrix_x4(uint32_t (&to)[4], const void* row) {
  on_cpu::load_matrix<4, false>("load_matrix_x4", to, row);
}
inline void load_matrix_x2(uint32_t (&to)[2], const void* row) {
  on_cpu::load_matrix<2, false>("load_matrix_x2", to, row);
}
inline void load_matrix_x4_trans(uint32_t (&to)[4], const void* row) {
  on_cpu::load_matrix<4, true>("load_matrix_x4_trans", to, row);
}
inline void load_matrix_x2_trans(uint32_t (&to)[2], const void* row) {
  on_cpu::load_matrix<2, true>("load_matrix_x2_trans", to, row);
}

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  on_cpu::mma<T, 16>("mma_m16n8k16", d, a, b);
}

template <class T>
void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  on_cpu::mma<T, 8>("mma_m16n8k8", d, a, &b);
}

}  // namespace lightsr

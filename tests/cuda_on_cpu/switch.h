// Leaves one stack for another.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)

extern "C" void lightsr_switch(void** leave, void* enter);
asm(R"(
.text
.globl lightsr_switch
.type lightsr_switch, @function
lightsr_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lightsr_switch, .-lightsr_switch
)");

struct Context {
  void* top = nullptr;

  void prepare(unsigned char* stack, size_t size, void (*start)()) {
    auto** frame = reinterpret_cast<void**>(stack + size - 64);  // a multiple of 16
    *--frame = nullptr;                                          // where `start` would return to: it does not
    *--frame = reinterpret_cast<void*>(start);
    top = frame - 6;
    for (int i = 0; i < 6; ++i) static_cast<void**>(top)[i] = nullptr;
  }

  static void change(Context& leave, Context& enter) { lightsr_switch(&leave.top, enter.top); }
};

#else

#include <ucontext.h>

struct Context {
  ucontext_t state;

  void prepare(unsigned char* stack, size_t size, void (*start)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = size;
    state.uc_link = nullptr;
    makecontext(&state, start, 0);
  }

  static void change(Context& leave, Context& enter) { swapcontext(&leave.state, &enter.state); }
};

#endif

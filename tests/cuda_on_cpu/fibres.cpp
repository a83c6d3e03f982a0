// A block's threads as fibres on one processor: each runs until it waits for others, then another goes on, picked by a
// seeded generator. A kernel that is right gives the same bits for every seed.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "copy_async_on_cpu.h"
#include "fibres.h"
#include "launch_on_cpu.h"
#include "switch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FIBRE_LEAVES(fake, bottom, size) __sanitizer_start_switch_fiber(fake, bottom, size)
#define FIBRE_ENTERED(fake, bottom, size) __sanitizer_finish_switch_fiber(fake, bottom, size)
#else
#define FIBRE_LEAVES(fake, bottom, size) (void)(fake)
#define FIBRE_ENTERED(fake, bottom, size) (void)(fake)
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace lightsr::on_cpu {
namespace {

constexpr size_t stack_size = 256 * 1024;

struct Copy {
  unsigned char* to;
  const void* from;  // null: zeros
  int bytes;
};

struct Fibre {
  Context context;
  unsigned char* stack;
  void* fake_stack = nullptr;
  uint3 thread{};
  const char* waits = nullptr;  // the name of the call it waits in
  bool ended = false;
  void* brought = nullptr;
  std::vector<std::vector<Copy>> groups;  // of copies under way; the last is open
};

std::vector<Fibre*> fibres;
std::vector<int> ready;
int threads, running, waiting_in_block, ended;
bool any_value, previous_any_value;
std::vector<int> waiting_in_warp;
Context main_context;
const void* main_bottom;
size_t main_size;
unsigned char* shared_bytes_start;
size_t shared_bytes_size;
uint64_t random_state = 1;
std::string* noted;

void (*thread_body)(const void*);
const void* thread_arguments;

unsigned random_below(unsigned limit) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<unsigned>((random_state >> 33) % limit);
}

Fibre& self() {
  return *fibres[running];
}

void arrived(Fibre& fibre) {
  FIBRE_ENTERED(fibre.fake_stack, nullptr, nullptr);
  threadIdx = fibre.thread;
}

// Goes on with any thread that can; says so if none can.
void next() {
  Fibre& leave = self();
  if (ready.empty()) {
    if (ended == threads) {
      FIBRE_LEAVES(&leave.fake_stack, main_bottom, main_size);
      Context::change(leave.context, main_context);
      return arrived(leave);
    }
    for (int each = 0; each < threads; ++each) {
      if (fibres[each]->waits != nullptr) {
        threadIdx = fibres[each]->thread;
        fail("waits in %s for threads that never come: %d of %d have ended", fibres[each]->waits, ended, threads);
      }
    }
  }
  const unsigned pick = random_below(static_cast<unsigned>(ready.size()));
  running = ready[pick];
  ready[pick] = ready.back();
  ready.pop_back();
  Fibre& enter = self();
  if (&enter == &leave) return;
  FIBRE_LEAVES(&leave.fake_stack, enter.stack, stack_size);
  Context::change(leave.context, enter.context);
  arrived(leave);
}

void release(int from, int to) {
  for (int each = from; each < to; ++each) {
    fibres[each]->waits = nullptr;
    ready.push_back(each);
  }
}

void fibre_main() {
  const void* bottom = nullptr;
  size_t size = 0;
  FIBRE_ENTERED(nullptr, &bottom, &size);
  if (main_bottom == nullptr) {  // the first fibre of all is entered from the program itself
    main_bottom = bottom;
    main_size = size;
  }
  for (;;) {
    Fibre& me = self();
    threadIdx = me.thread;
    thread_body(thread_arguments);
    if (me.groups.size() > 1 || !me.groups[0].empty()) fail("ended with asynchronous copies still under way");
    me.ended = true;
    ++ended;
    if (waiting_in_warp[running / 32] != 0) fail("ended while lanes of its warp wait for it");
    if (waiting_in_block != 0) fail("ended while other threads wait in a barrier of the block");
    next();
  }
}

void run_block(size_t shared_bytes) {
  shared_bytes_size = shared_bytes;
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, shared_bytes > 0 ? shared_bytes : 1) != 0) fail("no memory for shared memory");
  shared_bytes_start = static_cast<unsigned char*>(memory);
  std::memset(shared_bytes_start, 0xff, shared_bytes);
  waiting_in_warp.assign((threads + 31) / 32, 0);
  waiting_in_block = ended = 0;
  any_value = false;
  ready.clear();
  for (int each = 0; each < threads; ++each) {
    Fibre& fibre = *fibres[each];
    const unsigned index = static_cast<unsigned>(each);
    fibre.thread = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
    fibre.ended = false;
    fibre.waits = nullptr;
    fibre.groups.assign(1, {});
    ready.push_back(each);
  }
  const unsigned pick = random_below(static_cast<unsigned>(ready.size()));
  running = ready[pick];
  ready[pick] = ready.back();
  ready.pop_back();
  void* fake_stack = nullptr;
  FIBRE_LEAVES(&fake_stack, self().stack, stack_size);
  Context::change(main_context, self().context);
  FIBRE_ENTERED(fake_stack, nullptr, nullptr);
  std::free(memory);
  shared_bytes_start = nullptr;
  shared_bytes_size = 0;
}

}  // namespace

void set_seed(uint64_t seed) {
  random_state = seed * 2 + 1;
}

void fail(const char* form, ...) {
  std::fprintf(stderr, "cuda-on-cpu: block (%u, %u, %u), thread (%u, %u, %u): ", blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z);
  va_list words;
  va_start(words, form);
  std::vfprintf(stderr, form, words);
  va_end(words);
  std::fprintf(stderr, "\n");
  std::fflush(stderr);
  _exit(70);
}

int lane() {
  return running % 32;
}
unsigned char* shared_start() {
  return shared_bytes_start;
}
size_t shared_size() {
  return shared_bytes_size;
}

void check_shared(const char* name, const void* at, size_t bytes, size_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(at), start = reinterpret_cast<uintptr_t>(shared_bytes_start);
  if (address % alignment != 0) fail("%s: shared address is no multiple of %zu", name, alignment);
  if (address < start || address + bytes > start + shared_bytes_size) {
    fail("%s: byte %td lies outside the %zu bytes of shared memory", name,
         static_cast<ptrdiff_t>(address) - static_cast<ptrdiff_t>(start), shared_bytes_size);
  }
}

bool block_barrier(const char* name, bool value) {
  if (waiting_in_warp[running / 32] != 0) fail("came to %s while lanes of its warp wait in another call", name);
  if (ended != 0) fail("came to %s when %d threads of the block had ended", name, ended);
  self().waits = name;
  any_value = any_value || value;
  if (++waiting_in_block == threads) {
    for (int each = 0; each < threads; ++each) {
      if (std::strcmp(fibres[each]->waits, name) != 0) fail("came to %s, others to %s", name, fibres[each]->waits);
    }
    waiting_in_block = 0;
    previous_any_value = any_value;
    any_value = false;
    release(0, threads);
  }
  next();
  return previous_any_value;
}

void warp_barrier(const char* name, Collective run, void* mine) {
  const int warp = running / 32, first = warp * 32, end = first + 32;
  if (end > threads) fail("%s in a warp of fewer than 32 lanes", name);
  for (int each = first; each < end; ++each) {
    const Fibre& other = *fibres[each];
    if (other.ended) fail("came to %s when lane %d of its warp had ended", name, each - first);
    if (other.waits != nullptr && std::strcmp(other.waits, name) != 0) {
      fail("came to %s while lane %d of its warp waits in %s", name, each - first, other.waits);
    }
  }
  self().waits = name;
  self().brought = mine;
  if (++waiting_in_warp[warp] == 32) {
    waiting_in_warp[warp] = 0;
    if (run != nullptr) {
      void* lanes[32];
      for (int each = 0; each < 32; ++each) lanes[each] = fibres[first + each]->brought;
      run(lanes);
    }
    release(first, end);
  }
  next();
}

void copy_begin(void* shared, const void* global, int bytes, bool real) {
  check_shared("copy_async", shared, static_cast<size_t>(bytes), static_cast<size_t>(bytes));
  if (real && reinterpret_cast<uintptr_t>(global) % static_cast<uintptr_t>(bytes) != 0) {
    fail("copy_async: global address is no multiple of %d", bytes);
  }
  std::memset(shared, 0xff, static_cast<size_t>(bytes));
  self().groups.back().push_back({static_cast<unsigned char*>(shared), real ? global : nullptr, bytes});
}

void copy_close_group() {
  self().groups.emplace_back();
}

void copy_finish(int groups) {
  auto& all = self().groups;
  while (static_cast<int>(all.size()) - 1 > groups) {
    for (const Copy& each : all.front()) {
      if (each.from != nullptr) {
        std::memcpy(each.to, each.from, static_cast<size_t>(each.bytes));
      } else {
        std::memset(each.to, 0, static_cast<size_t>(each.bytes));
      }
    }
    all.erase(all.begin());
  }
}

void only_note(std::string* notes) {
  noted = notes;
}

void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*thread)(const void*),
              const void* arguments) {
  constexpr size_t most_shared = 163 * 1024;  // of a block on sm_80
  threads = static_cast<int>(block.x * block.y * block.z);
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads < 1 || threads > 1024 || block.z > 64) fail("a block of %d threads", threads);
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    fail("a grid of %u x %u x %u", grid.x, grid.y, grid.z);
  }
  if (shared_bytes > most_shared) fail("%zu bytes of shared memory for a block", shared_bytes);
  if (noted != nullptr) {
    char name[1024] = "a kernel";
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(kernel)) + 1, "%f", name, sizeof(name));
#endif
    *noted += std::to_string(blocks) + " " + std::to_string(threads) + " " + std::to_string(shared_bytes) + " ";
    *noted += std::string(name) + "\n";
    return;
  }
  gridDim = grid;
  blockDim = block;
  thread_body = thread;
  thread_arguments = arguments;
  while (static_cast<int>(fibres.size()) < threads) {
    void* stack = mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for a thread's stack");
    auto* fibre = new Fibre;
    fibre->stack = static_cast<unsigned char*>(stack);
    fibre->context.prepare(fibre->stack, stack_size, fibre_main);
    fibres.push_back(fibre);
  }
  std::vector<uint64_t> order(blocks);
  for (uint64_t each = 0; each < blocks; ++each) order[each] = each;
  for (uint64_t each = blocks; each > 1; --each) {
    std::swap(order[each - 1], order[random_below(static_cast<unsigned>(each))]);
  }
  for (const uint64_t each : order) {
    blockIdx = {static_cast<unsigned>(each % grid.x), static_cast<unsigned>(each / grid.x % grid.y),
                static_cast<unsigned>(each / grid.x / grid.y)};
    run_block(shared_bytes);
  }
}

}  // namespace lightsr::on_cpu

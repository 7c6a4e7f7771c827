// How do a thousand threads run in one? As fibers with stacks of their own, in a chosen order.
#pragma once

#if !defined(__x86_64__)
#define GT_UCONTEXT 1
#endif
#ifdef GT_UCONTEXT
#include <ucontext.h>
#endif

namespace gt_runtime {

constexpr int MAX_THREADS = 1024;
constexpr usize STACK_BYTES = 256 << 10;  // the lowest page of each is never mapped
// Accesses (atomic ones count a thousandfold) after which a thread that never waits lets others run
constexpr u32 PATIENCE = 100000;

struct Copy {
  void* to;
  const void* from;
  u32 bytes, zeros, group;
};

struct Fiber {
#ifdef GT_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  int linear;
  u32 lane;
  bool done;
  // It waits until *waits_for is no longer `seen`
  const u32* waits_for;
  u32 seen;
  u32 mask;           // of the warp operation it waits in; 0: the block's barrier
  const char* where;  // it waits
  const void* pc;
  u32 synced, released;  // times of its last __syncwarp and fence
  u32 acquired;          // the newest publication that it has learned of
  u32 converged;
  u32 patience;
  Copy* copies;
  u32 copy_count, copy_room, copy_group;
  bool bounds_reported;  // the access that comes next
};

static Fiber fibers[MAX_THREADS];
static Fiber* self;  // null: the host runs
static u8* stacks;
static int thread_count, live_count;
static int order[MAX_THREADS];  // in which threads take turns
static int turn;

// Time as the shadow sees it: it passes at barriers, fences and between blocks.
static u32 now = 1;
static u32 launch_start, block_start, barrier_time;

// ---- order
enum Order { FORWARD, REVERSE, RANDOM };
static Order chosen_order = FORWARD;
static u64 random_state = 1;

static u32 random_below(u32 n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return u32((random_state * 0x2545f4914f6cdd1dull) >> 33) % n;
}

template <class T>
static void arrange(T* ids, u32 n) {
  if (chosen_order == REVERSE) {
    for (u32 i = 0; i < n / 2; ++i) {
      const T t = ids[i];
      ids[i] = ids[n - 1 - i];
      ids[n - 1 - i] = t;
    }
  } else if (chosen_order == RANDOM) {
    for (u32 i = n; i > 1; --i) {
      const u32 j = random_below(i);
      const T t = ids[i - 1];
      ids[i - 1] = ids[j];
      ids[j] = t;
    }
  }
}

// ---- switching
#ifdef GT_UCONTEXT
static ucontext_t host_context;
static void change(Fiber* from, Fiber* to) {
  swapcontext(from ? &from->context : &host_context, to ? &to->context : &host_context);
}
#else
extern "C" void gt_switch(void** save, void* to);
__asm__(
    ".text\n"
    ".local gt_switch\n"
    ".type gt_switch,@function\n"
    "gt_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp,(%rdi)\n"
    "  mov %rsi,%rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n"
    ".size gt_switch,.-gt_switch\n");
static void* host_stack_pointer;
static void change(Fiber* from, Fiber* to) {
  gt_switch(from ? &from->stack_pointer : &host_stack_pointer, to ? to->stack_pointer : host_stack_pointer);
}
#endif

static void settle();  // shadow.h: looks at what the last write did

static void switch_to(Fiber* to) {
  Fiber* from = self;
  settle();
  ++now_counting->switches;
  self = to;
  running_thread = to ? to->linear : NO_THREAD;
  change(from, to);
}

static u8* stack_of(int linear) { return stacks + usize(linear) * STACK_BYTES; }

static bool on_a_stack(const void* address) {
  return (const u8*)address - stacks < (long long)(MAX_THREADS * STACK_BYTES) && (const u8*)address >= stacks;
}

static void fiber_main();  // runtime.cpp

static void prepare_stack(Fiber& f) {
  u8* bottom = stack_of(f.linear);
#ifdef GT_UCONTEXT
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = bottom + PAGE;
  f.context.uc_stack.ss_size = STACK_BYTES - PAGE;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
#else
  // `ret` of the switch enters fiber_main with the alignment that a call would leave
  void** top = (void**)(bottom + STACK_BYTES) - 2;
  *top = (void*)fiber_main;
  f.stack_pointer = top - 6;
#endif
}

static void make_stacks() {
  const usize all = MAX_THREADS * STACK_BYTES;
  stacks = (u8*)must_map(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void guard_stacks(int n) {
  static int guarded = 0;
  for (; guarded < n; ++guarded) mprotect(stack_of(guarded), PAGE, PROT_NONE);
}

// ---- taking turns
static bool is_ready(const Fiber& f) { return !f.done && (!f.waits_for || *f.waits_for != f.seen); }

static Fiber* next_ready() {
  for (int k = 1; k <= thread_count; ++k) {
    int at = turn + k;
    if (at >= thread_count) at -= thread_count;
    Fiber& f = fibers[order[at]];
    if (is_ready(f)) {
      turn = at;
      return &f;
    }
  }
  return nullptr;
}

// A thread that spins gives others their turn, as the hardware's scheduler does.
static void let_others_run() {
  self->patience = 0;
  Fiber* other = next_ready();
  if (other && other != self) switch_to(other);
}

static void lose_patience(u32 cost) {
  if ((self->patience += cost) > PATIENCE) let_others_run();
}

}  // namespace gt_runtime

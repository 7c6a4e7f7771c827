// Runs the steps of a program as its job file says, and writes what happened into a result file.
//
// This is compiled once, and linked to each program's kernels into a small process of its own: a
// kernel that crashes or never ends hurts nobody.
#include "interface.h"

#include "report.h"
#include "memory.h"
#include "fibers.h"
#include "banks.h"
#include "shadow.h"
#include "sync.h"
#include "hooks.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace gt_runtime {

// Behind the variables in shared memory: what is written past the last of them hurts nobody
__attribute__((section("gt_shared_guard"), used)) static u8 guard[64 << 10] = {1};

static void (*kernel_entry)(void**);
static void** kernel_args;

static void fiber_main() {
  kernel_entry(kernel_args);
  settle();
  end_thread();
  Fiber* next = next_ready();
  if (!next && live_count && let_the_converged_go()) next = next_ready();
  if (!next && live_count) report_deadlock();
  switch_to(next);
  __builtin_unreachable();
}

// ---- one block
static void poison_shared() {
  for (int i = 0; i < region_count; ++i)
    if (regions[i].shared) memset(regions[i].begin, 0xff, usize(regions[i].end - regions[i].begin));
}

static void prepare_threads() {
  thread_count = live_count = int(launch.threads);
  for (int i = 0; i < thread_count; ++i) {
    Fiber& f = fibers[i];
    f.linear = i;
    f.lane = u32(i) & 31;
    f.done = f.bounds_reported = false;
    f.waits_for = nullptr;
    f.synced = f.released = f.acquired = 0;
    f.patience = 0;
    f.copy_count = f.copy_group = 0;
    prepare_stack(f);
    order[i] = i;
  }
  arrange(order, u32(thread_count));
  for (int w = 0; w * 32 < thread_count; ++w) {
    const int lanes = thread_count - w * 32;
    warps[w].live = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    for (Group& g : warps[w].groups) g.arrived = 0;
    for (Meeting& m : warps[w].meetings) m.arrived = 0;
  }
  barrier.arrived = barrier.votes = 0;
}

static void run_block(u32 block) {
  block_start = barrier_time = ++now;
  running_block = block;
  record_block(block);
  poison_shared();
  prepare_threads();
  turn = 0;
  switch_to(&fibers[order[0]]);  // comes back when all threads have ended
  settle();
  count_banks();
  running_block = NO_BLOCK;
  running_thread = NO_THREAD;
  ++now_counting->blocks;
  now_counting->threads += launch.threads;
}

// ---- one launch
static u64 nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return u64(t.tv_sec) * 1000000000ull + u64(t.tv_nsec);
}

static void run_launch(u32* blocks, u32 count) {
  now_counting = &figures[launch.kernel];
  ++now_counting->launches;
  kernel_entry = gt_kernels[launch.kernel].call;
  if (dynamic_shared) {
    drop_cells(*dynamic_shared);
    dynamic_shared->end = dynamic_shared->begin + launch.shared_bytes;
  }
  guard_stacks(int(launch.threads));
  record_count = 0;
  launch_start = ++now;
  arrange(blocks, count);
  const u64 start = nanoseconds();
  for (u32 i = 0; i < count; ++i) {
    counting_banks = checking && i < COUNTED_BLOCKS;
    now_counting->bank_blocks += counting_banks;
    run_block(blocks[i]);
  }
  now_counting->nanoseconds += nanoseconds() - start;
}

// ---- signals
static u8 signal_stack[64 << 10];

static void stop_with(const char* kind, const char* text) {
  Facts f;
  report(kind, f, "%s", text);
  finish();
}

static void on_fault(int number, siginfo_t* info, void*) {
  const u8* at = (const u8*)info->si_addr;
  if (self && (number == SIGSEGV || number == SIGBUS) && at) {
    for (int i = 0; i < thread_count; ++i)
      if (at >= stack_of(i) && at < stack_of(i) + PAGE)
        stop_with("stack-overflow", "its local variables need more than 256 KiB");
    // With checks this was reported before it happened. Without, only whole pages are known.
    Region* r = slot_of(at);
    if (r) {
      const bool inside = at >= r->begin && at < r->begin + r->mapped;
      Facts f = facts_of(*r, at, r->item, nullptr);
      if (inside && !checking)
        report("write-to-input", f, "it writes %s, which the program declares as an input", r->name);
      else if (!inside && !checking)
        report("out-of-bounds", f, "it uses element %lld of %s, which has %lld elements", f.element, r->name,
               elements_of(*r, r->item));
      if (open_stray_page(at)) return;
    }
  }
  char text[160];
  const char* what = number == SIGFPE ? "divides an integer by zero" : number == SIGILL ? "reached code that cannot be"
                     : number == SIGABRT ? "aborted" : "crashed";
  if (number == SIGSEGV || number == SIGBUS)
    snprintf(text, sizeof text, "it crashed at address %p", (const void*)at);
  else
    snprintf(text, sizeof text, "it %s", what);
  stop_with("crash", text);
}

static void on_time(int) { stop_with("endless-loop", "the time limit passed while it ran"); }

static void catch_signals(u32 limit_ms) {
  stack_t own{};
  own.ss_sp = signal_stack;
  own.ss_size = sizeof signal_stack;
  sigaltstack(&own, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
  for (int number : faults) sigaction(number, &action, nullptr);
  struct sigaction alarm{};
  alarm.sa_handler = on_time;
  alarm.sa_flags = SA_ONSTACK;
  sigaction(SIGPROF, &alarm, nullptr);
  itimerval limit{};
  limit.it_value.tv_sec = limit_ms / 1000;
  limit.it_value.tv_usec = (limit_ms % 1000) * 1000;
  setitimer(ITIMER_PROF, &limit, nullptr);  // of processor time: a busy machine is no endless loop
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

// ---- the job file: one line a fact, words divided by single spaces
struct Number {
  gt_kind kind;
  u32 bytes;
  alignas(16) u8 value[16];
};
static Number numbers[256];
static int number_count;
static FILE* job;

static char* word() {
  static char buffers[4][4096];
  static int at = 0;
  char* w = buffers[at = (at + 1) & 3];
  if (fscanf(job, "%4095s", w) != 1) give_up("the job file ends early");
  return w;
}
static u64 number() { return strtoull(word(), nullptr, 10); }
static char* kept(const char* text) {
  char* out = strdup(text);
  if (!out) give_up("no memory is left");
  return out;
}

static void read_number() {
  if (number_count == 256) give_up("too many numbers");
  Number& n = numbers[number_count++];
  n.kind = word()[0] == 'f' ? GT_FLOAT : GT_INTEGER;
  n.bytes = u32(number());
  const char* hex = word();
  for (u32 i = 0; i < n.bytes && i < 16; ++i) {
    const char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
    n.value[i] = u8(strtoul(two, nullptr, 16));
  }
}

[[noreturn]] static void refuse(const char* text, int at) {
  const char* kernel = gt_kernels[launch.kernel].name;
  fprintf(result, "refused\t%s\t%d\t%s\n", kernel, at, text);
  fclose(result);
  _Exit(0);
}

static void read_args(void** args) {
  static void* pointers[256];
  const gt_kernel& k = gt_kernels[launch.kernel];
  const int count = int(number());
  if (count != k.count) refuse("count", k.count);
  for (int i = 0; i < count; ++i) {
    const char* w = word();
    const int at = atoi(w + 1);
    const gt_parameter& p = k.params[i];
    if (w[0] == 'b') {
      if (p.kind != GT_POINTER) refuse("not a pointer", i);
      pointers[i] = regions[at].begin;
      args[i] = &pointers[i];
    } else {
      if (p.kind != numbers[at].kind || p.bytes != numbers[at].bytes) refuse(p.kind == GT_POINTER ? "pointer" : "type", i);
      args[i] = numbers[at].value;
    }
  }
}

static gt_index triple() {
  const u32 x = u32(number()), y = u32(number()), z = u32(number());
  return gt_index{x, y, z};
}

static void read_launch() {
  static void* args[256];
  launch.kernel = int(number());
  launch.grid = triple();
  launch.block = triple();
  launch.threads = launch.block.x * launch.block.y * launch.block.z;
  launch.shared_bytes = u32(number());
  const u32 all = launch.grid.x * launch.grid.y * launch.grid.z;
  const u32 chosen = u32(number());  // 0: all
  const u32 count = chosen ? chosen : all;
  u32* blocks = (u32*)malloc(count * sizeof(u32) + 1);
  if (!blocks) give_up("no memory is left");
  for (u32 i = 0; i < count; ++i) blocks[i] = chosen ? u32(number()) : i;
  read_args(args);
  kernel_args = args;
  run_launch(blocks, count);
  free(blocks);
  launch.kernel = -1;
}

static int run_job() {
  int memory = -1;
  char w[32];
  while (fscanf(job, "%31s", w) == 1) {
    if (!strcmp(w, "result")) {
      if (!(result = fopen(word(), "w"))) give_up("the result file cannot be written");
    } else if (!strcmp(w, "memory")) {
      if ((memory = open(word(), O_RDWR)) < 0) give_up("the memory file cannot be opened");
    } else if (!strcmp(w, "limit")) {
      catch_signals(u32(number()));
    } else if (!strcmp(w, "order")) {
      chosen_order = Order(number());
      random_state = number() * 0x9e3779b97f4a7c15ull + 0x1234567ull;
      if (!random_state) random_state = 1;
    } else if (!strcmp(w, "checked")) {
      checking = number() != 0;
    } else if (!strcmp(w, "buffer")) {
      const char* name = kept(word());
      const int item = int(number());
      const u64 elements = number(), offset = number(), written = number(), defined = number();
      add_buffer(name, item, elements, memory, long(offset), written != 0, defined != 0);
    } else if (!strcmp(w, "variable")) {
      const char* name = kept(word());
      const char kind = word()[0];  // shared, device, guard
      const u64 at = strtoull(word(), nullptr, 16), bytes = number();
      add_variable(name, (void*)(image_base + at), bytes, kind == 's', kind == 'g');
    } else if (!strcmp(w, "dynamic")) {
      if (region_count == MAX_REGIONS) give_up("too many buffers");
      dynamic_region().name = kept(word());
      regions[region_count] = dynamic_region();
      dynamic_shared = &regions[region_count++];
    } else if (!strcmp(w, "number")) {
      read_number();
    } else if (!strcmp(w, "memset")) {
      Region& r = regions[number()];
      memset(r.begin, int(number()), usize(r.end - r.begin));
      r.defined = true;
    } else if (!strcmp(w, "launch")) {
      read_launch();
    } else {
      give_up("the job file holds an unknown word");
    }
  }
  finish();
}

}  // namespace gt_runtime

int main(int argc, char** argv) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a worker that is killed does not leave it behind
#endif
  if (argc != 2 || !(job = fopen(argv[1], "r"))) give_up("usage: program JOBFILE");
  dl_iterate_phdr(find_image, nullptr);
  make_stacks();
  return run_job();
}

// What went wrong, where and by whom? Findings are kept once for each place, and counted.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace gt_runtime {

typedef gt_u8 u8;
typedef gt_u16 u16;
typedef gt_u32 u32;
typedef gt_u64 u64;
typedef gt_size usize;

constexpr u32 NO_BLOCK = ~0u;
constexpr int NO_THREAD = -1;
constexpr long long NO_ELEMENT = -0x7fffffffffffffffll - 1;

// The launch that is running; the blocks and threads of findings are its.
struct Launch {
  int kernel = -1;
  gt_index grid{}, block{};
  u32 threads = 0;
  u32 shared_bytes = 0;
};
static Launch launch;

static gt_index place_in(u32 at, gt_index shape) {
  return gt_index{at % shape.x, at / shape.x % shape.y, at / shape.x / shape.y};
}

struct Finding {
  const char* kind;
  bool warning;
  int kernel;
  bool has_block, has_thread, has_other_block, has_other_thread;
  gt_index block, thread, other_block, other_thread;
  const char* buffer;  // or null
  long long element;
  const void* pc;
  u64 count;
  char message[400];
};

// What a report needs beyond its text.
struct Facts {
  const char* buffer = nullptr;
  long long element = NO_ELEMENT;
  const void* pc = nullptr;
  u32 other_block = NO_BLOCK;
  int other_thread = NO_THREAD;
  bool warning = false;
};

constexpr int KEPT = 1024;
static Finding findings[KEPT];
static int finding_count;
static u64 findings_dropped;

// Who is running, for reports; set by the scheduler.
static u32 running_block = NO_BLOCK;
static int running_thread = NO_THREAD;

static Finding* same_place(const char* kind, const Facts& f) {
  for (int i = 0; i < finding_count; ++i) {
    Finding& g = findings[i];
    if (g.pc == f.pc && g.kernel == launch.kernel && g.buffer == f.buffer && g.warning == f.warning &&
        !strcmp(g.kind, kind))
      return &g;
  }
  return nullptr;
}

__attribute__((format(printf, 3, 4))) static void report(const char* kind, const Facts& f, const char* text, ...) {
  if (Finding* known = same_place(kind, f)) {
    ++known->count;
    return;
  }
  if (finding_count == KEPT) {
    ++findings_dropped;
    return;
  }
  Finding& g = findings[finding_count++];
  g = Finding{};
  g.kind = kind;
  g.warning = f.warning;
  g.kernel = launch.kernel;
  g.buffer = f.buffer;
  g.element = f.element;
  g.pc = f.pc;
  g.count = 1;
  if ((g.has_block = running_block != NO_BLOCK)) g.block = place_in(running_block, launch.grid);
  if ((g.has_thread = running_thread != NO_THREAD)) g.thread = place_in(u32(running_thread), launch.block);
  if ((g.has_other_block = f.other_block != NO_BLOCK)) g.other_block = place_in(f.other_block, launch.grid);
  if ((g.has_other_thread = f.other_thread != NO_THREAD))
    g.other_thread = place_in(u32(f.other_thread), launch.block);
  va_list rest;
  va_start(rest, text);
  vsnprintf(g.message, sizeof g.message, text, rest);
  va_end(rest);
}

// ---- figures of each kernel
struct Figures {
  u64 launches, blocks, threads, switches, barriers, nanoseconds;
  u64 shared_requests, bank_conflicts, bank_blocks;
  u64 global_requests, global_sectors;
  u64 uncounted;  // accesses that there was no room to count
};
constexpr int MAX_KERNELS = 256;
static Figures figures[MAX_KERNELS];
static Figures* now_counting = &figures[0];

// What warps asked of one buffer: instructions, and sectors or passes over the banks.
struct Traffic {
  int kernel;
  const char* buffer;
  bool write, shared;
  u64 requests, units;
};
constexpr int MAX_TRAFFIC = 1024;
static Traffic traffics[MAX_TRAFFIC + 1];  // the last one is for what finds no room
static int traffic_count;

static Traffic& traffic_of(const char* buffer, bool write, bool shared) {
  for (int i = traffic_count; i-- > 0;)
    if (traffics[i].buffer == buffer && traffics[i].write == write && traffics[i].kernel == launch.kernel)
      return traffics[i];
  if (traffic_count == MAX_TRAFFIC) return traffics[MAX_TRAFFIC];
  traffics[traffic_count] = Traffic{launch.kernel, buffer, write, shared, 0, 0};
  return traffics[traffic_count++];
}

// ---- the end of the run
static FILE* result;
static u64 image_base;  // where the program was loaded

static void print_place(bool there, gt_index at) {
  if (there)
    fprintf(result, "\t%u,%u,%u", at.x, at.y, at.z);
  else
    fprintf(result, "\t-");
}

static u64 in_image(const void* pc) { return pc ? u64(pc) - image_base : 0; }

// Writes everything that is known, and ends the process.
[[noreturn]] static void finish() {
  fflush(stdout);
  for (int i = 0; i < finding_count; ++i) {
    const Finding& g = findings[i];
    fprintf(result, "finding\t%s\t%s\t%s", g.kind, g.warning ? "warning" : "error",
            g.kernel < 0 ? "-" : gt_kernels[g.kernel].name);
    print_place(g.has_block, g.block);
    print_place(g.has_thread, g.thread);
    print_place(g.has_other_block, g.other_block);
    print_place(g.has_other_thread, g.other_thread);
    fprintf(result, "\t%s", g.buffer ? g.buffer : "-");
    if (g.element == NO_ELEMENT)
      fprintf(result, "\t-");
    else
      fprintf(result, "\t%lld", g.element);
    fprintf(result, "\t%llx\t%llu\t%s\n", in_image(g.pc), g.count, g.message);
  }
  for (int k = 0; gt_kernels[k].name; ++k) {
    const Figures& f = figures[k];
    fprintf(result, "figures\t%s\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\t%llu\n",
            gt_kernels[k].name, f.launches, f.blocks, f.threads, f.switches, f.barriers, f.nanoseconds,
            f.shared_requests, f.bank_conflicts, f.bank_blocks, f.global_requests, f.global_sectors, f.uncounted);
  }
  for (int i = 0; i < traffic_count; ++i) {
    const Traffic& t = traffics[i];
    if (t.kernel >= 0)
      fprintf(result, "traffic\t%s\t%s\t%d\t%d\t%llu\t%llu\n", gt_kernels[t.kernel].name, t.buffer, int(t.write),
              int(t.shared), t.requests, t.units);
  }
  fprintf(result, "dropped\t%llu\nend\n", findings_dropped);
  fclose(result);
  _Exit(0);
}

}  // namespace gt_runtime

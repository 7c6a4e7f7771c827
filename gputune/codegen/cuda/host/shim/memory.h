// Which memory may kernels touch? Buffers lie far apart in reserved address space, so that a wrong
// index meets no other buffer; touching the space between them does not end the run.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

namespace gt_runtime {

struct Cell;

// Memory that threads share: a buffer, a `__shared__` or `__device__` variable, dynamic shared memory.
struct Region {
  const char* name;
  u8* begin;
  u8* end;
  int item;  // bytes of an element; 0: not known, an access counts as one
  bool shared, writable, defined;
  bool ignored;  // the compiler's own
  u8 *slot_begin, *slot_end;  // reserved around it; null for variables
  usize mapped;               // bytes in whole pages
  // The shadow: one cell for every 1 << shift bytes
  Cell* cells;
  int shift;
};

constexpr int MAX_REGIONS = 512;
static Region regions[MAX_REGIONS];
static int region_count;
static Region* dynamic_shared;  // among them
static Region* recent = regions;

constexpr usize PAGE = 4096;
constexpr usize DYNAMIC_CAPACITY = 256 << 10;  // more than a block can have on any GPU

static usize whole_pages(usize bytes) { return (bytes + PAGE - 1) & ~(PAGE - 1); }

[[noreturn]] static void give_up(const char* what) {
  fprintf(stderr, "host execution: %s\n", what);
  _Exit(70);
}

static void* must_map(void* at, usize bytes, int protection, int flags, int file, long offset) {
  void* p = mmap(at, bytes, protection, flags, file, offset);
  if (p == MAP_FAILED) give_up("no address space or memory is left");
  return p;
}

// Room for a region with nothing around it: 4 GiB on both sides, less where that is refused.
static void reserve(Region& r, usize bytes) {
  const usize whole = whole_pages(bytes ? bytes : 1);
  for (usize margin = usize(4) << 30; margin >= (usize(1) << 20); margin >>= 4) {
    const usize all = whole + 2 * margin;
    void* p = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) continue;
    r.slot_begin = (u8*)p;
    r.slot_end = (u8*)p + all;
    r.begin = (u8*)p + margin;
    r.mapped = whole;
    return;
  }
  give_up("no address space is left");
}

// A buffer of the program; its bytes lie in the file at `offset`. Inputs are mapped for reading only
// and privately: what is written to them all the same does not reach the caller.
static void add_buffer(const char* name, int item, usize elements, int file, long offset, bool written, bool defined) {
  if (region_count == MAX_REGIONS) give_up("too many buffers");
  Region& r = regions[region_count++];
  r = Region{};
  r.name = name;
  r.item = item;
  r.writable = written;
  r.defined = defined;
  reserve(r, elements * item);
  must_map(r.begin, r.mapped, written ? PROT_READ | PROT_WRITE : PROT_READ, (written ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED,
           file, offset);
  r.end = r.begin + elements * item;
}

static void add_variable(const char* name, void* begin, usize bytes, bool shared, bool ignored) {
  if (region_count == MAX_REGIONS) give_up("too many variables");
  Region& r = regions[region_count++];
  r = Region{};
  r.name = name;
  r.begin = (u8*)begin;
  r.end = r.begin + bytes;
  r.shared = shared;
  r.ignored = ignored;
  r.writable = true;
  r.defined = !shared;
}

// Static initialisers may ask for it, before main.
static Region& dynamic_region() {
  static Region early;
  if (!early.begin) {
    early.shared = early.writable = true;
    reserve(early, DYNAMIC_CAPACITY);
    must_map(early.begin, DYNAMIC_CAPACITY, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    early.end = early.begin;
  }
  return early;
}

static Region* region_of(const void* address) {
  const u8* p = (const u8*)address;
  if (p >= recent->begin && p < recent->end) return recent;
  for (int i = 0; i < region_count; ++i)
    if (p >= regions[i].begin && p < regions[i].end) return recent = &regions[i];
  return nullptr;
}

// The region that a stray address was probably meant for: the one in whose slot it lies.
static Region* slot_of(const void* address) {
  const u8* p = (const u8*)address;
  for (int i = 0; i < region_count; ++i)
    if (p >= regions[i].slot_begin && p < regions[i].slot_end) return &regions[i];
  return nullptr;
}

static long long element_of(const Region& r, const void* address, usize bytes) {
  const long long item = r.item ? r.item : (bytes ? (long long)bytes : 1);
  const long long offset = (const u8*)address - r.begin;
  return offset >= 0 ? offset / item : -((-offset + item - 1) / item);
}

static long long elements_of(const Region& r, usize bytes) {
  const long long item = r.item ? r.item : (bytes ? (long long)bytes : 1);
  return (r.end - r.begin) / item;
}

// Called for an address that is not mapped: gives it a page, so that the run goes on.
static bool open_stray_page(const void* address) {
  Region* r = slot_of(address);
  if (!r) return false;
  u8* page = (u8*)(usize(address) & ~(PAGE - 1));
  if (mprotect(page, PAGE, PROT_READ | PROT_WRITE)) return false;
  if (page < r->begin || page >= r->begin + r->mapped) memset(page, 0xff, PAGE);  // NaN for floats
  return true;
}

}  // namespace gt_runtime

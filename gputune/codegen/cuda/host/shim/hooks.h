// What does compiled kernel code call? The sanitizers' hooks, and the operations of the shim.
#pragma once

#include <link.h>

namespace gt_runtime {

struct Image {
  const u8 *begin, *end;
};
static Image read_only[16];  // the program's constants: tables, literals
static int read_only_count;

static int find_image(dl_phdr_info* info, usize, void*) {
  image_base = info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& h = info->dlpi_phdr[i];
    const bool constant = h.p_type == PT_LOAD && !(h.p_flags & PF_W);
    const bool relocated = h.p_type == PT_GNU_RELRO;
    if ((!constant && !relocated) || read_only_count == 16) continue;
    const u8* begin = (const u8*)(info->dlpi_addr + h.p_vaddr);
    read_only[read_only_count++] = Image{begin, begin + h.p_memsz};
  }
  return 1;  // the program itself comes first; no other
}

static bool in_the_program(const void* address) {
  for (int i = 0; i < read_only_count; ++i)
    if ((const u8*)address >= read_only[i].begin && (const u8*)address < read_only[i].end) return true;
  return false;
}

}  // namespace gt_runtime

extern "C" {
gt_index gt_thread_index() { return place_in(u32(self->linear), launch.block); }
gt_index gt_block_index() { return place_in(running_block, launch.grid); }
gt_index gt_block_shape() { return launch.block; }
gt_index gt_grid_shape() { return launch.grid; }
gt_u32 gt_lane() { return self->lane; }
void* gt_dynamic_shared() { return dynamic_region().begin; }

gt_u64 gt_clock() {
  static u64 ticks = 0;
  return ticks += 16;
}

// ---- atomic operations
void gt_atomic_read(const void* p, void* value, gt_size bytes) {
  const void* pc = __builtin_return_address(0);
  lose_patience(1000);
  ++now;
  if (usize(p) & (bytes - 1)) check_alignment(p, bytes, WRITE | ATOMIC, pc);
  check_access(p, bytes, WRITE | ATOMIC, pc);
  memcpy(value, p, bytes);
}
void gt_atomic_write(void* p, const void* value, gt_size bytes) { memcpy(p, value, bytes); }

// ---- asynchronous copies
void gt_async_copy(void* to, const void* from, gt_size bytes, gt_size zeros) {
  const void* pc = __builtin_return_address(0);
  check_alignment(to, bytes, WRITE, pc);
  check_alignment(from, bytes, READ, pc);
  if (bytes > zeros) check_access(from, bytes - zeros, READ, pc);
  check_access(to, bytes, WRITE | BY_COPY, pc);
  Fiber& f = *self;
  if (f.copy_count == f.copy_room) {
    f.copy_room = f.copy_room ? f.copy_room * 2 : 16;
    f.copies = (Copy*)realloc(f.copies, f.copy_room * sizeof(Copy));
    if (!f.copies) give_up("no memory is left");
  }
  f.copies[f.copy_count++] = Copy{to, from, u32(bytes), u32(zeros), f.copy_group};
}

void gt_async_commit() { ++self->copy_group; }

static void land(const Copy& c) {
  memcpy(c.to, c.from, c.bytes - c.zeros);
  memset((u8*)c.to + c.bytes - c.zeros, 0, c.zeros);
  Region* r = region_of(c.to);
  if (!r || !r->cells || (u8*)c.to + c.bytes > r->end) return;
  const usize offset = usize((u8*)c.to - r->begin);
  for (usize i = offset >> r->shift; i <= (offset + c.bytes - 1) >> r->shift; ++i)
    r->cells[i].write = Mark{now, u16(self->linear), 0};
}

void gt_async_wait(int groups_left) {
  settle();
  Fiber& f = *self;
  u32 kept = 0;
  for (u32 i = 0; i < f.copy_count; ++i) {
    if (f.copies[i].group + u32(groups_left) < f.copy_group)
      land(f.copies[i]);
    else
      f.copies[kept++] = f.copies[i];
  }
  f.copy_count = kept;
}

// ---- failure
void gt_trap() {
  settle();
  Facts f;
  f.pc = __builtin_return_address(0);
  report("trap", f, "it called __trap()");
  finish();
}

void gt_assertion(const char* text, const char*, int) {
  settle();
  Facts f;
  f.pc = __builtin_return_address(0);
  report("assertion", f, "its assertion does not hold: %s", text);
  finish();
}

// ---- the thread sanitizer's: before each access. The aligned ones are what the source says; the
// others come from the compiler, which may join accesses.
#define GT_HOOKS(n)                                                                              \
  void __tsan_read##n(void* p) {                                                                 \
    const void* pc = __builtin_return_address(0);                                                \
    if (usize(p) & (n - 1)) check_alignment(p, n, READ, pc);                                     \
    check_access(p, n, READ, pc);                                                                \
  }                                                                                              \
  void __tsan_write##n(void* p) {                                                                \
    const void* pc = __builtin_return_address(0);                                                \
    if (usize(p) & (n - 1)) check_alignment(p, n, WRITE, pc);                                    \
    check_access(p, n, WRITE, pc);                                                               \
  }                                                                                              \
  void __tsan_unaligned_read##n(void* p) { check_access(p, n, READ, __builtin_return_address(0)); } \
  void __tsan_unaligned_write##n(void* p) { check_access(p, n, WRITE, __builtin_return_address(0)); } \
  void __tsan_read_write##n(void* p) {                                                           \
    const void* pc = __builtin_return_address(0);                                                \
    if (usize(p) & (n - 1)) check_alignment(p, n, WRITE, pc);                                    \
    check_access(p, n, READ, pc);                                                                \
    check_access(p, n, WRITE, pc);                                                               \
  }                                                                                              \
  void __tsan_unaligned_read_write##n(void* p) {                                                 \
    check_access(p, n, READ, __builtin_return_address(0));                                       \
    check_access(p, n, WRITE, __builtin_return_address(0));                                      \
  }
GT_HOOKS(1)
GT_HOOKS(2)
GT_HOOKS(4)
GT_HOOKS(8)
GT_HOOKS(16)
#undef GT_HOOKS

void __tsan_read_range(void* p, usize n) {
  if (n) check_access(p, n, READ, __builtin_return_address(0));
}
void __tsan_write_range(void* p, usize n) {
  if (n) check_access(p, n, WRITE, __builtin_return_address(0));
}
// Clang turns copies of whole objects into these; up to 16 bytes they are one access of the source
void* __tsan_memcpy(void* to, const void* from, usize n) {
  const void* pc = __builtin_return_address(0);
  if (n) check_access(from, n, READ, pc), check_access(to, n, WRITE, pc);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, usize n) {
  const void* pc = __builtin_return_address(0);
  if (n) check_access(from, n, READ, pc), check_access(to, n, WRITE, pc);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, usize n) {
  if (n) check_access(to, n, WRITE, __builtin_return_address(0));
  return memset(to, value, n);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// ---- the bounds of arrays, shared or local
struct gt_source_location {
  const char* file;
  u32 line, column;
};
struct gt_type {
  u16 kind, info;
  char name[1];
};
struct gt_bounds {
  gt_source_location at;
  const gt_type* array;
  const gt_type* index;
};

void __ubsan_handle_out_of_bounds(gt_bounds* about, usize index) {
  if (!self) return;
  settle();
  const u16 info = about->index->info;
  const unsigned bits = 1u << (info >> 1);
  long long value = (long long)index;
  if (bits < 64) value = info & 1 ? (long long)(index << (64 - bits)) >> (64 - bits) : (long long)(index << (64 - bits) >> (64 - bits));
  Facts f;
  f.pc = __builtin_return_address(0);
  f.element = value;
  report("out-of-bounds", f, "its index %lld is outside of an array of type %s", value, about->array->name);
  self->bounds_reported = true;
}
void __ubsan_handle_out_of_bounds_abort(gt_bounds* about, usize index) { __ubsan_handle_out_of_bounds(about, index); }
}  // extern "C"

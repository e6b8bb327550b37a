/* A plugin of QEMU's user mode that counts how often each basic block runs between two marks of runner.c.
 *
 * Counts are kept apart for each call of a kernel (a function whose address was marked as an entry), whatever the
 * kernel calls in turn: a shadow stack of calls and returns tells when it has returned. Everything else, the virtual
 * machine for instance, counts as the call before the first. Written to the file ``out=``, a line each:
 *
 *   B segment                        a segment begins
 *   T id address word word ...       a block, before it is first counted in the segment
 *   K kernel                         a call of this kernel begins; -1: what is outside of all kernels
 *   N id count                       how often a block ran in it
 *   M loads stores load-bytes store-bytes l1-misses l2-misses lines     what it read and wrote (with caches)
 *   W lines                          lines touched in the whole segment (with caches)
 *   E segment                        the segment ends
 *
 * Segments stand on their own, as the program may measure each in a process that it forks, and that may crash.
 * ``l1=bytes:ways,l2=bytes:ways`` are set-associative with LRU replacement and write allocation, lines of 64 bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "markers.h"
#include "qemu_plugin.h"

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

enum { LINE_SHIFT = 6, GROUP_SHIFT = 12, BUCKETS = 1 << 20, ENTRIES = 4096, DEPTH = 4096 };
enum ending { FALLS, CALLS, RETURNS };

typedef struct Block {
  uint64_t address, count, written; /* in which segment it was written */
  uint32_t id, length;
  int kernel; /* the kernel that begins here, or -1 */
  enum ending ending;
  struct Block *next, *touched;
  uint32_t words[];
} Block;

typedef struct {
  uint64_t *tags, sets;
  unsigned ways;
} Cache;

static FILE* out;
static Block* blocks[1 << 16];
static uint32_t block_count;
static Block* touched; /* blocks with a count, since the last switch of calls */
static uint64_t entry_address[ENTRIES];
static int entry_count, counting, kernel = -1, returning, with_caches;
static unsigned depth, kernel_depth;
static Cache l1, l2;
static uint64_t segments; /* begun so far */
static uint64_t loads, stores, load_bytes, store_bytes, l1_misses, l2_misses, call_lines, segment_lines, epoch;

/* Which of the 64 lines of an aligned group were touched: in the segment, and in the epoch, which is a call. Found by
 * open addressing; there is room for 4 GiB. */
typedef struct {
  uint64_t group, segment, in_segment, epoch, in_epoch;
} Touched;
static Touched seen[BUCKETS], *last_seen = seen;

static void write_block(Block* b) {
  b->written = segments;
  fprintf(out, "T %" PRIu32 " %" PRIx64, b->id, b->address);
  for (uint32_t i = 0; i < b->length; i++) fprintf(out, " %08" PRIx32, b->words[i]);
  fputc('\n', out);
}

static void flush_call(void) {
  if (touched != NULL) fprintf(out, "K %d\n", kernel);
  for (Block* b = touched; b != NULL; b = b->touched) {
    if (b->written != segments) write_block(b);
    fprintf(out, "N %" PRIu32 " %" PRIu64 "\n", b->id, b->count);
    b->count = 0;
  }
  if (touched != NULL && with_caches)
    fprintf(out, "M %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", loads,
            stores, load_bytes, store_bytes, l1_misses, l2_misses, call_lines);
  touched = NULL;
  loads = stores = load_bytes = store_bytes = l1_misses = l2_misses = call_lines = 0;
  epoch++;
}

/* A call is over when what follows its last block begins: QEMU tells of a block before the block reads and writes. */
static void leave_kernel(void) {
  if (!returning) return;
  flush_call();
  kernel = -1, returning = 0;
}

static void executed(unsigned vcpu, void* data) {
  Block* b = data;
  (void)vcpu;
  leave_kernel();
  if (counting && b->kernel >= 0 && kernel < 0) {
    flush_call();
    kernel = b->kernel, kernel_depth = depth;
  }
  if (counting) {
    if (b->count++ == 0) b->touched = touched, touched = b;
  }
  if (b->ending == CALLS) depth++;
  if (b->ending == RETURNS) {
    depth--;
    returning = kernel >= 0 && depth < kernel_depth;
  }
}

/* The most recently used line of a set comes first. Returns whether the line was there. */
static int touch_line(Cache* cache, uint64_t line) {
  uint64_t *set = cache->tags + (line & (cache->sets - 1)) * cache->ways, found = line + 1;
  unsigned way = 0;
  if (set[0] == found) return 1;
  while (way + 1 < cache->ways && set[way] != found) way++;
  int hit = set[way] == found;
  memmove(set + 1, set, way * sizeof *set);
  set[0] = found;
  return hit;
}

static Touched* group_of(uint64_t group) {
  uint64_t at = group * 0x9E3779B97F4A7C15u >> 44;
  for (unsigned tried = 0; seen[at].segment == segments && seen[at].group != group; at = (at + 1) % BUCKETS)
    if (++tried == BUCKETS) fprintf(stderr, "count_blocks: more memory is touched than can be followed\n"), exit(1);
  if (seen[at].segment != segments) seen[at] = (Touched){.group = group, .segment = segments};
  return &seen[at];
}

static void note_line(uint64_t line) {
  uint64_t group = line >> (GROUP_SHIFT - LINE_SHIFT), bit = UINT64_C(1) << line % 64;
  if (last_seen->group != group || last_seen->segment != segments) last_seen = group_of(group);
  if (last_seen->epoch != epoch) last_seen->epoch = epoch, last_seen->in_epoch = 0;
  call_lines += !(last_seen->in_epoch & bit), last_seen->in_epoch |= bit;
  segment_lines += !(last_seen->in_segment & bit), last_seen->in_segment |= bit;
}

/* STXR, STXP and their kin. QEMU compares what is there with what the load before saw: it reads where no core does. */
static int is_store_exclusive(uint32_t word) {
  return (word & 0x3FE00000) == 0x08000000 || (word & 0xBFE00000) == 0x88200000;
}

static void accessed(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void* data) {
  (void)vcpu;
  /* Asked for the stores of an instruction alone, QEMU 7 tells of its loads too: they are told apart here. */
  if (!qemu_plugin_mem_is_store(info) && is_store_exclusive(*(const uint32_t*)data)) return;
  uint64_t size = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
  for (uint64_t line = address >> LINE_SHIFT; line <= (address + size - 1) >> LINE_SHIFT; line++) {
    /* Followed outside of segments too, so that a segment finds the caches as the call before it left them. */
    int in_l1 = touch_line(&l1, line), in_l2 = in_l1 || touch_line(&l2, line);
    if (!counting) continue;
    note_line(line);
    l1_misses += !in_l1, l2_misses += !in_l2;
  }
  if (!counting) return;
  if (qemu_plugin_mem_is_store(info)) stores++, store_bytes += size;
  else loads++, load_bytes += size;
}

static enum ending ending_of(uint32_t word) {
  if ((word & 0xFC000000) == 0x94000000 || (word & 0xFFFFFC1F) == 0xD63F0000) return CALLS; /* BL, BLR */
  return (word & 0xFFFFFC1F) == 0xD65F0000 ? RETURNS : FALLS;                               /* RET */
}

/* The block with this address and these words; QEMU translates a block anew when its buffer is full. */
static Block* block_of(const struct qemu_plugin_tb* tb) {
  uint64_t address = qemu_plugin_tb_vaddr(tb);
  uint32_t length = (uint32_t)qemu_plugin_tb_n_insns(tb);
  Block* fresh = calloc(1, sizeof(Block) + length * sizeof(uint32_t));
  for (uint32_t i = 0; i < length; i++)
    memcpy(&fresh->words[i], qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, i)), sizeof(uint32_t));
  Block** slot = &blocks[(address >> 2) % (1 << 16)];
  for (Block* b = *slot; b != NULL; b = b->next)
    if (b->address == address && b->length == length && memcmp(b->words, fresh->words, length * 4) == 0) {
      free(fresh);
      return b;
    }
  fresh->address = address, fresh->length = length, fresh->id = block_count++, fresh->kernel = -1;
  fresh->ending = length > 0 ? ending_of(fresh->words[length - 1]) : FALLS;
  fresh->next = *slot;
  *slot = fresh;
  return fresh;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  Block* b = block_of(tb);
  for (int i = 0; i < entry_count; i++)
    if (entry_address[i] == b->address) b->kernel = i;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, b);
  for (size_t i = 0; with_caches && i < qemu_plugin_tb_n_insns(tb); i++)
    qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), accessed, QEMU_PLUGIN_CB_NO_REGS,
                                     QEMU_PLUGIN_MEM_RW, &b->words[i]);
}

static void marked(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t what, uint64_t value, uint64_t address,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != MARKER) return;
  if (what == MARK_ENTRY && value < ENTRIES) {
    entry_address[value] = address;
    if (entry_count <= (int)value) entry_count = (int)value + 1;
  } else if (what == MARK_BEGIN) {
    fprintf(out, "\nB %" PRIu64 "\n", value); /* what went before may have ended in the middle of a line */
    segments++;
    kernel = -1, returning = 0, depth = DEPTH, counting = 1, segment_lines = 0;
    epoch++;
  } else if (what == MARK_END && counting) {
    flush_call();
    counting = returning = 0;
    if (with_caches) fprintf(out, "W %" PRIu64 "\n", segment_lines);
    fprintf(out, "E %" PRIu64 "\n", value);
    fflush(out);
  }
}

static int start_cache(Cache* cache, const char* text) {
  char* rest;
  uint64_t bytes = strtoull(text, &rest, 10);
  cache->ways = *rest == ':' ? (unsigned)strtoul(rest + 1, NULL, 10) : 0;
  cache->sets = cache->ways > 0 ? (bytes >> LINE_SHIFT) / cache->ways : 0;
  if (cache->sets == 0 || cache->sets & (cache->sets - 1)) return -1; /* sets are told apart by bits of the address */
  cache->tags = calloc(cache->sets * cache->ways, sizeof *cache->tags);
  return 0;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int argc, char** argv) {
  (void)info;
  for (int i = 0; i < argc; i++) {
    char* value = strchr(argv[i], '=');
    if (value == NULL) return -1;
    value++;
    if (strncmp(argv[i], "out=", 4) == 0) out = fopen(value, "w");
    else if (strncmp(argv[i], "l1=", 3) == 0 && start_cache(&l1, value) == 0) with_caches = 1;
    else if (strncmp(argv[i], "l2=", 3) == 0 && start_cache(&l2, value) == 0) with_caches = 1;
    else return -1;
  }
  if (out == NULL || (with_caches && (l1.sets == 0 || l2.sets == 0))) return -1;
  setvbuf(out, NULL, _IOFBF, 1 << 20);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, marked);
  return 0;
}

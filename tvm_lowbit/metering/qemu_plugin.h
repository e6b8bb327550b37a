/* The part of QEMU's plugin interface that count_blocks.c uses. Declared here because distributions ship QEMU without
 * its header; names and types are QEMU's interface, versions 1 (QEMU 6 to 8) and 2 and later (9 and up). */
#ifndef QEMU_PLUGIN_H
#define QEMU_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS = 0, QEMU_PLUGIN_MEM_RW = 3 };

typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*executed_t)(unsigned vcpu, void* data);
typedef void (*accessed_t)(unsigned vcpu, qemu_plugin_meminfo_t, uint64_t address, void* data);
typedef void (*syscall_t)(qemu_plugin_id_t, unsigned vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t,
                          uint64_t, uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, executed_t, int flags, void* data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn*, accessed_t, int flags, int kind, void* data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
void* qemu_plugin_insn_haddr(const struct qemu_plugin_insn*);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);

#endif

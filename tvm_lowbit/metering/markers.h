/* How runner.c tells what it is about to do: system calls with a number that Linux does not have. The kernel (QEMU)
 * refuses them, which costs the program that is measured nothing. A plugin sees their arguments. QEMU's log shows only
 * their numbers, so what a mark says is spelled out before it, in calls whose numbers are SPELL and 20 bits more: what
 * and value, then the address, lowest bits first. The end of a segment needs no words. */
#ifndef MARKERS_H
#define MARKERS_H

enum { MARKER = 0x4C4F57, MARK_ENTRY = 1, MARK_BEGIN = 2, MARK_END = 3 };
enum { SPELL = 0x40000000, SPELL_BITS = 20, VALUE_BITS = 16 };

#endif

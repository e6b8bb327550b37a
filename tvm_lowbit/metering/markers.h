/* How runner.c tells count_blocks.c what it is about to do: system calls with a number that Linux does not have. The
 * kernel (QEMU) refuses them, which costs the program that is measured nothing; a plugin sees their arguments. */
#ifndef MARKERS_H
#define MARKERS_H

enum { MARKER = 0x4C4F57, MARK_ENTRY = 1, MARK_BEGIN = 2, MARK_END = 3 };

#endif

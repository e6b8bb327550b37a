/* Calls functions of compiled libraries on the emulated board, and marks where each measured call begins and ends.
 *
 *   runner LIBS JOB
 *
 * LIBS is the folder of TVM's runtime for aarch64, JOB a file of commands, a line each:
 *
 *   load PATH                         the library that the following lines are about
 *   entry N SYMBOL                    the calls of this function of the library are counted apart, as kernel N
 *   function NAME                     what to call
 *   machine NAME                      what to call, in TVM's virtual machine
 *   tensor CODE BITS RANK DIM... FILE an argument; FILE holds its bytes, "-" is zeros
 *   call SEGMENT                      call once to warm up, then once more between the marks of this segment
 *   once SEGMENT                      call once only, between the marks of this segment
 *   save INDEX FILE                   write an argument's bytes, as the calls left them
 *   fork SECONDS                      do what follows, up to ``join``, in a process of its own, so that it finds
 *                                     everything as if it came first, and takes nothing with it when it crashes
 *   join
 *   bases                             tell where libraries are mapped
 *
 * Written to standard output: ``base PATH ADDRESS`` for each mapped library, ``apart N STATUS`` when the N-th process
 * apart has ended (as waitpid tells it), and last ``heap BYTES``, what the job has taken from the heap. */
#define _GNU_SOURCE
#include <link.h>
#include <malloc.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "board_runtime.h"
#include "markers.h"

enum { ARGUMENTS = 256, RANK = 8, ALIGNMENT = 64 };

static __typeof__(&TVMFFITensorFromDLPack) make_tensor;
static __typeof__(&TVMFFIObjectDecRef) release;
static TVMFFIAny module, function;
static TVMFFIAny arguments[ARGUMENTS];
static DLManagedTensor* tensors[ARGUMENTS];
static int argument_count;

static void fail(const char* doing) {
  TVMFFIObjectHandle error = NULL;
  take_error(&error);
  TVMFFIByteArray why = ((TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject)))->message;
  fprintf(stderr, "runner: %s: %.*s\n", doing, (int)why.size, why.data);
  exit(1);
}

static TVMFFIAny call(TVMFFIObjectHandle what, TVMFFIAny* args, int count, const char* doing) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  if (what == NULL) die(doing, "no such function");
  if (call_function(what, args, count, &result) != 0) fail(doing);
  return result;
}

static void drop(TVMFFIAny* value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) release(value->v_obj);
}

static TVMFFIAny string(const char* value) { return (TVMFFIAny){.type_index = kTVMFFIRawStr, .v_c_str = value}; }

static TVMFFIAny member(TVMFFIAny owner, const char* name) {
  TVMFFIAny args[3] = {owner, string(name), {.type_index = kTVMFFIBool, .v_int64 = 1}};
  TVMFFIAny found = call(global("ffi.ModuleGetFunction"), args, 3, name);
  if (found.type_index != kTVMFFIFunction) die(name, "not in the library");
  return found;
}

static void start_machine(const char* name) {
  TVMFFIAny load = member(module, "vm_load_executable");
  TVMFFIAny machine = call(load.v_obj, NULL, 0, "vm_load_executable");
  TVMFFIAny start = member(machine, "vm_initialization");
  TVMFFIAny cpu[3]; /* device CPU 0, pooled memory */
  for (int i = 0; i < 3; i++) cpu[i] = (TVMFFIAny){.type_index = kTVMFFIInt, .v_int64 = (int[]){kDLCPU, 0, 2}[i]};
  call(start.v_obj, cpu, 3, "vm_initialization");
  function = member(machine, name);
}

static void keep_tensor(DLManagedTensor* tensor) { (void)tensor; }

static void* read_bytes(const char* path, size_t size) {
  size_t room = (size + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
  void* data = aligned_alloc(ALIGNMENT, room);
  if (data == NULL) die(path, "out of memory");
  memset(data, 0, room);
  if (strcmp(path, "-") == 0) return data;
  FILE* file = fopen(path, "rb");
  if (file == NULL || fread(data, 1, size, file) != size) die(path, "cannot be read");
  fclose(file);
  return data;
}

static size_t size_of(const DLTensor* tensor) {
  size_t size = (tensor->dtype.bits + 7u) / 8;
  for (int i = 0; i < tensor->ndim; i++) size *= (size_t)tensor->shape[i];
  return size;
}

static void add_tensor(char* text) {
  int code = 0, bits = 0, rank = 0, used = 0;
  if (argument_count == ARGUMENTS || sscanf(text, "%d %d %d%n", &code, &bits, &rank, &used) != 3 || rank > RANK)
    die("tensor", text);
  DLManagedTensor* managed = calloc(1, sizeof *managed);
  int64_t* shape = calloc(RANK, sizeof *shape);
  for (int i = 0, n = 0; i < rank; i++, used += n)
    if (sscanf(text + used, "%ld%n", &shape[i], &n) != 1) die("tensor", text);
  managed->dl_tensor = (DLTensor){.device = {kDLCPU, 0},
                                  .ndim = rank,
                                  .dtype = {(uint8_t)code, (uint8_t)bits, 1},
                                  .shape = shape};
  managed->deleter = keep_tensor; /* they live as long as the process */
  managed->dl_tensor.data = read_bytes(text + used + 1, size_of(&managed->dl_tensor));
  TVMFFIObjectHandle tensor = NULL;
  if (make_tensor(managed, ALIGNMENT, 1, &tensor) != 0) fail("tensor");
  tensors[argument_count] = managed;
  arguments[argument_count++] = (TVMFFIAny){.type_index = kTVMFFITensor, .v_obj = tensor};
}

static void mark(long what, long value, uint64_t address) {
  const long mask = (1L << SPELL_BITS) - 1;
  if (what != MARK_END) {
    syscall(SPELL + (what << VALUE_BITS) + value);
    for (int i = 0; i < 3; i++) syscall(SPELL + (long)(address >> i * SPELL_BITS & (uint64_t)mask));
  }
  syscall(MARKER, what, value, address);
}

static void measure(long segment, int warm_up) {
  if (warm_up) {
    TVMFFIAny warm = call(function.v_obj, arguments, argument_count, "the call");
    drop(&warm);
  }
  mark(MARK_BEGIN, segment, 0);
  TVMFFIAny result = call(function.v_obj, arguments, argument_count, "the call");
  mark(MARK_END, segment, 0);
  drop(&result);
}

static void save(char* text) {
  int index = -1, used = 0;
  if (sscanf(text, "%d%n", &index, &used) != 1 || index < 0 || index >= argument_count) die("save", text);
  FILE* file = fopen(text + used + 1, "wb");
  size_t size = size_of(&tensors[index]->dl_tensor);
  if (file == NULL || fwrite(tensors[index]->dl_tensor.data, 1, size, file) != size || fclose(file) != 0)
    die(text, "cannot be written");
}

static int print_base(struct dl_phdr_info* info, size_t size, void* nothing) {
  (void)size, (void)nothing;
  printf("base %s %lx\n", info->dlpi_name, (unsigned long)info->dlpi_addr);
  return 0;
}

static void add_entry(const char* library, char* text) {
  int number = 0, used = 0;
  if (sscanf(text, "%d%n", &number, &used) != 1) die("entry", text);
  void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  void* address = handle != NULL ? dlsym(handle, text + used + 1) : NULL;
  if (address == NULL) die(text, "not in the library");
  mark(MARK_ENTRY, number, (uint64_t)address);
}

static void obey(char* line, char* library) {
  char* rest = strchr(line, ' ');
  rest = rest != NULL ? (*rest = '\0', rest + 1) : line + strlen(line);
  if (strcmp(line, "load") == 0) {
    snprintf(library, PATH_MAX, "%s", rest);
    TVMFFIAny path = string(library);
    module = call(global("ffi.ModuleLoadFromFile"), &path, 1, rest);
  } else if (strcmp(line, "entry") == 0) add_entry(library, rest);
  else if (strcmp(line, "function") == 0) function = member(module, rest);
  else if (strcmp(line, "machine") == 0) start_machine(rest);
  else if (strcmp(line, "tensor") == 0) add_tensor(rest);
  else if (strcmp(line, "call") == 0) measure(strtol(rest, NULL, 10), 1);
  else if (strcmp(line, "once") == 0) measure(strtol(rest, NULL, 10), 0);
  else if (strcmp(line, "save") == 0) save(rest);
  else if (strcmp(line, "join") == 0) _exit(0);
  else if (strcmp(line, "bases") == 0) dl_iterate_phdr(print_base, NULL), fflush(stdout);
  else die(line, "no such command");
}

/* Bytes taken from the system's heap. */
static size_t heap(void) {
  struct mallinfo2 (*look)(void) = (struct mallinfo2(*)(void))dlsym(RTLD_DEFAULT, "mallinfo2");
  if (look == NULL) return 0;
  struct mallinfo2 now = look();
  return now.uordblks + now.hblkhd;
}

/* Returns 0 in a new process, 1 in this one when the other has ended. The job file is read into memory by then: the
 * processes would share its position. */
static int run_apart(unsigned seconds) {
  static int count;
  fflush(stdout);
  pid_t child = fork();
  if (child < 0) die("fork", "no process");
  if (child == 0) {
    alarm(seconds); /* its default action ends the process */
    return 0;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) continue;
  printf("apart %d %d\n", count++, status);
  return 1;
}

/* The whole job, as a stream in memory. */
static FILE* read_job(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) die(path, "cannot be read");
  size_t size = (size_t)ftell(file);
  char* text = malloc(size + 1);
  rewind(file);
  if (text == NULL || fread(text, 1, size, file) != size) die(path, "cannot be read");
  fclose(file);
  return fmemopen(text, size, "r");
}

int main(int argc, char** argv) {
  char line[PATH_MAX + 256], library[PATH_MAX] = "";
  if (argc != 3) die("usage", "runner LIBS JOB");
  load_runtime(argv[1]);
  make_tensor = dlsym(RTLD_DEFAULT, "TVMFFITensorFromDLPack");
  release = dlsym(RTLD_DEFAULT, "TVMFFIObjectDecRef");
  if (make_tensor == NULL || release == NULL) die("libtvm_ffi.so", "is its version the pinned one?");
  FILE* job = read_job(argv[2]);
  size_t before = heap();
  for (int skips = 0; fgets(line, sizeof line, job) != NULL;) {
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "fork ", 5) == 0) skips = run_apart((unsigned)strtoul(line + 5, NULL, 10));
    else if (!skips) obey(line, library);
    else if (strcmp(line, "join") == 0) skips = 0;
  }
  printf("heap %zu\n", heap() - before);
  return 0;
}

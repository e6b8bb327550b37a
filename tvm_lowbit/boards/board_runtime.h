/* TVM's runtime for board_server.c: loaded by path, called through tvm-ffi's C API. */
#ifndef BOARD_RUNTIME_H
#define BOARD_RUNTIME_H

#include <dlfcn.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tvm/ffi/c_api.h>

/* The runtime is loaded by path, so its C API is looked up and not linked; the header gives the types. */
static __typeof__(&TVMFFIFunctionGetGlobal) get_global;
static __typeof__(&TVMFFIFunctionSetGlobal) set_global;
static __typeof__(&TVMFFIFunctionCreate) create_function;
static __typeof__(&TVMFFIFunctionCall) call_function;
static __typeof__(&TVMFFIStringFromByteArray) make_string;
static __typeof__(&TVMFFIErrorMoveFromRaised) take_error;
static __typeof__(&TVMFFIErrorSetRaisedFromCStr) raise_error;

/* Where the session keeps its files; set before anything is served. */
static char work_folder[PATH_MAX / 2];

static void die(const char* what, const char* why) {
  fprintf(stderr, "board_server: %s: %s\n", what, why);
  exit(1);
}

static void* symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == NULL) die(name, "not in libtvm_ffi.so; is its version the pinned one?");
  return found;
}

static void* open_library(const char* folder, const char* name, int required) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
  /* Global, so that models find the runtime's, libc's and libm's functions although they name no library. */
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL && required) die("cannot load", dlerror());
  return library;
}

static void load_runtime(const char* folder) {
  void* ffi = open_library(folder, "libtvm_ffi.so", 1);
  get_global = symbol(ffi, "TVMFFIFunctionGetGlobal");
  set_global = symbol(ffi, "TVMFFIFunctionSetGlobal");
  create_function = symbol(ffi, "TVMFFIFunctionCreate");
  call_function = symbol(ffi, "TVMFFIFunctionCall");
  make_string = symbol(ffi, "TVMFFIStringFromByteArray");
  take_error = symbol(ffi, "TVMFFIErrorMoveFromRaised");
  raise_error = symbol(ffi, "TVMFFIErrorSetRaisedFromCStr");
  open_library(folder, "libtvm_runtime.so", 1);
  open_library(folder, "libtvm_runtime_extra.so", 0); /* random_fill, which tuning needs */
}

static TVMFFIObjectHandle global(const char* name) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  return get_global(&key, &function) == 0 ? function : NULL;
}

/* A string argument comes in three forms: a C string, eight inline bytes, or a String object. */
static TVMFFIByteArray text(const TVMFFIAny* value) {
  TVMFFIByteArray none = {NULL, 0};
  if (value->type_index == kTVMFFIRawStr) return (TVMFFIByteArray){value->v_c_str, strlen(value->v_c_str)};
  if (value->type_index == kTVMFFISmallStr) return (TVMFFIByteArray){value->v_bytes, value->small_str_len};
  if (value->type_index == kTVMFFIStr) return *(TVMFFIByteArray*)((char*)value->v_obj + sizeof(TVMFFIObject));
  return none;
}

static int place(const TVMFFIAny* args, int32_t count, char* path) {
  TVMFFIByteArray name = count == 1 ? text(args) : (TVMFFIByteArray){NULL, 0};
  if (name.size == 0 || name.size >= 256 || memchr(name.data, '/', name.size) != NULL) {
    raise_error("ValueError", "expected the name of a file in the session's folder, without slashes");
    return -1;
  }
  snprintf(path, PATH_MAX, "%s/%.*s", work_folder, (int)name.size, name.data);
  return 0;
}

static int work_path(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[PATH_MAX];
  (void)self;
  if (place(args, count, path) != 0) return -1;
  TVMFFIByteArray bytes = {path, strlen(path)};
  return make_string(&bytes, result);
}

static int load_module(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[PATH_MAX];
  TVMFFIAny argument = {.type_index = kTVMFFIRawStr, .v_c_str = path};
  (void)self;
  if (place(args, count, path) != 0) return -1;
  return call_function(global("ffi.ModuleLoadFromFile"), &argument, 1, result);
}

static void provide(const char* name, TVMFFISafeCallType body) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (global(name) != NULL) return;
  if (create_function(NULL, body, NULL, &function) != 0 || set_global(&key, function, 0) != 0)
    die(name, "cannot be registered");
}

/* Loads the runtime and gives it the two functions that TVM's server in Python would. */
static void start_runtime(const char* folder) {
  load_runtime(folder);
  provide("tvm.rpc.server.workpath", work_path);
  provide("tvm.rpc.server.load_module", load_module);
  if (global("rpc.ServerLoop") == NULL) die("rpc.ServerLoop", "not in libtvm_runtime.so");
}

static int serve(int fd) {
  TVMFFIAny argument = {.type_index = kTVMFFIInt, .v_int64 = fd}, result = {.type_index = kTVMFFINone};
  if (call_function(global("rpc.ServerLoop"), &argument, 1, &result) == 0) return 0;
  TVMFFIObjectHandle error = NULL;
  take_error(&error);
  TVMFFIByteArray why = ((TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject)))->message;
  fprintf(stderr, "board_server: session: %.*s\n", (int)why.size, why.data);
  return 1;
}

#endif

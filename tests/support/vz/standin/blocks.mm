// Copied blocks hold the Objective-C objects they use. The blocks' runtime knows no objects, so that they are held here and the
// rest is left to it.

#include <Block_private.h>
#include <dlfcn.h>

#include "standin.h"

namespace {

/// A variable that is an object, and not one marked __block, which is not held.
bool is_object(int flags) { return flags == BLOCK_FIELD_IS_OBJECT; }

template <class Function>
Function* next(const char* name) {
  void* const found = ::dlsym(RTLD_NEXT, name);
  if (found == nullptr) vmtest::vz::standin::misuse("the blocks' runtime is missing");
  return reinterpret_cast<Function*>(found);
}

}  // namespace

extern "C" {

void _Block_object_assign(void* destination, const void* object, const int flags) {
  static auto* const assign = next<void(void*, const void*, const int)>("_Block_object_assign");
  if (!is_object(flags)) return assign(destination, object, flags);
  *static_cast<const void**>(destination) = object;
  [(id) const_cast<void*>(object) retain];
}

void _Block_object_dispose(const void* object, const int flags) {
  static auto* const dispose = next<void(const void*, const int)>("_Block_object_dispose");
  if (!is_object(flags)) return dispose(object, flags);
  [(id) const_cast<void*>(object) release];
}

}  // extern "C"

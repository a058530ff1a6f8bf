// Exceptions of C++ in Objective-C++ code. For GCC's runtime clang names the unwinding routine of plain Objective-C, which lets
// no catch clause see an exception of C++. No source here throws Objective-C's, so that the routine of C++ can stand in.

#include <unwind.h>

// Names that the unwinder gives.
// NOLINTBEGIN(readability-identifier-naming)
extern "C" {

_Unwind_Reason_Code __gxx_personality_v0(int, _Unwind_Action, _Unwind_Exception_Class, _Unwind_Exception*, _Unwind_Context*);

_Unwind_Reason_Code __gnu_objc_personality_v0(int version, _Unwind_Action actions, _Unwind_Exception_Class exception_class,
                                              _Unwind_Exception* exception, _Unwind_Context* context) {
  return __gxx_personality_v0(version, actions, exception_class, exception, context);
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)

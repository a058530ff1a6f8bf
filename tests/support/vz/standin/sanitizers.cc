// What LeakSanitizer is to know of GCC's Objective-C runtime: it keeps the tables that it makes when a program is loaded where
// nobody looks for pointers. Objects are allocated by another function of it.

// A name that the sanitizer gives.
// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier)
extern "C" {

const char* __lsan_default_suppressions();
const char* __lsan_default_suppressions() { return "leak:^objc_malloc$"; }

}  // extern "C"
// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier)

// What macOS' system headers have otherwise than Linux', for the helper's portable half, which a Mac compiles in the end. It
// stands in front of a source by -include and holds all that those sources include, so that only they are judged.
#pragma once

#include <fcntl.h>
#include <httplib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

// Macros there, which cannot stand behind "::".
#undef sigemptyset
#undef sigfillset
#undef sigaddset
#undef sigdelset
#undef sigismember
#define sigemptyset(set) (*(set) = {}, 0)
#define sigfillset(set) (*(set) = {}, 0)
#define sigaddset(set, number) ((void)(set), (void)(number), 0)
#define sigdelset(set, number) ((void)(set), (void)(number), 0)
#define sigismember(set, number) ((void)(set), (number) != 0)

// What is Linux' alone.
#pragma GCC poison SOCK_CLOEXEC SOCK_NONBLOCK MSG_CMSG_CLOEXEC MSG_NOSIGNAL accept4 pipe2 dup3 ppoll execvpe
#pragma GCC poison epoll_create1 eventfd signalfd timerfd_create memfd_create pidfd_open prctl gettid close_range O_PATH O_TMPFILE

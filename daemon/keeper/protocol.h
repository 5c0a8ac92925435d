// What sluiced and sluice-keeper say to each other: messages of a SOCK_SEQPACKET socket.
//
// The daemon asks, the keeper answers each request with one message, in order; so there is at most
// one answer under way, and the keeper never waits for its peer. A request is a `Request`, for put
// with one descriptor. An answer is an `AnswerHead` and `count` names, for take with as many
// descriptors. Both begin with a `Header`, of which every version keeps the layout, so that two
// versions can tell each other apart. Numbers are those of the machine: both ends are on it.
//
// take lists in the order of names: a request names the last name that was received (none: from the
// beginning), and is answered with at most kMaxDescriptorsPerAnswer of those that follow.
//
// Thread-safety: free functions; one thread per socket.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::keeper {

inline constexpr std::uint32_t kMagic = 0x504B'4C53;  // "SLKP"
inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::size_t kMaxNameBytes = 64;
inline constexpr std::size_t kMaxDescriptorsPerMessage = 253;  // the kernel's SCM_MAX_FD
inline constexpr std::size_t kMaxDescriptorsPerAnswer = 250;

enum class Kind : std::uint32_t {
  hello = 1,   // first: is this our version?
  put = 2,     // keep a descriptor under a name
  remove = 3,  // forget a name
  take = 4,    // list what is kept
  end = 5,     // drop everything and exit
};

struct Header {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kProtocolVersion;
  std::uint32_t kind = 0;  // of the request, also in its answer
};

struct Name {
  std::uint32_t bytes = 0;
  std::array<char, kMaxNameBytes> text{};
};

struct Request {
  Header header;
  Name name;  // hello, end: none
};

struct AnswerHead {
  Header header;
  std::uint32_t status = 0;  // an ipc::Errc
  std::uint32_t count = 0;   // names that follow
  std::uint32_t left = 0;    // names after those
};

inline constexpr std::size_t kMaxMessageBytes =
    sizeof(AnswerHead) + kMaxDescriptorsPerAnswer * sizeof(Name);

static_assert(std::is_trivially_copyable_v<Request> &&
              sizeof(Request) == sizeof(Header) + sizeof(Name));
static_assert(std::is_trivially_copyable_v<AnswerHead> && sizeof(AnswerHead) == 24);
static_assert(sizeof(Name) == sizeof(std::uint32_t) + kMaxNameBytes);

// 1 to kMaxNameBytes characters of [A-Za-z0-9._-].
bool is_valid_name(std::string_view name);

Request make_request(Kind kind, std::string_view name = {});
Name make_name(std::string_view name);

// The text of a name from the peer: nullopt if it is none that make_name makes. Empty is allowed.
std::optional<std::string> text_of(const Name& name);

struct Message {
  std::vector<std::byte> bytes;  // nothing of them is checked
  std::vector<ipc::Fd> fds;      // closed on exec
  bool is_cut = false;           // it is longer than kMaxMessageBytes
  bool lost_fds = false;         // this process had no room for some of its descriptors

  // A POD at an offset; nullopt: the message is too short.
  template <class Plain>
  std::optional<Plain> read(std::size_t offset) const {
    static_assert(std::is_trivially_copyable_v<Plain>);
    if (bytes.size() < sizeof(Plain) || offset > bytes.size() - sizeof(Plain)) return std::nullopt;
    Plain value;
    std::memcpy(&value, bytes.data() + offset, sizeof(Plain));
    return value;
  }
};

// Sends without waiting. Errors: daemon_away (the peer has hung up), busy (its queue is full),
// limit_reached (the user has too many descriptors under way), io_error.
ipc::Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds);

// The next message, without waiting: nullopt if there is none. A message of no bytes is one that
// no peer of ours sends, or the end of file: its hang-up is what poll(2) tells. Errors: io_error.
//
// A peer that died with an answer unread is first reported as ECONNRESET by the kernel, before what
// it had sent: that is passed over here, and no message is lost.
ipc::Result<std::optional<Message>> receive_message(int socket);

}  // namespace sluice::keeper

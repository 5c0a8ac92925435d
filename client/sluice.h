/* libsluice: the C interface of Sluice.
 *
 * An engine connects to the daemon, opens a cache per kind of layer, and a sequence per request. A
 * sequence is an ordered list of blocks of `block_tokens` tokens. Blocks known by their keys are
 * found again; new ones are private to the sequence until they are sealed. In each decode step the
 * engine names the pages that it will read (`sluice_resolve`) and gets back slots: indices into the
 * arena, the cache's memory in the fast tier, where the page's bytes lie until the step ends.
 *
 * Executors. `daemon`: the daemon looks pages up and copies misses. `direct`: this library does so,
 * in the calling thread, on tables shared with the daemon. The calls are the same. Steps of
 * `direct` go on without a daemon; see below.
 *
 * GPUs. A cache with device_type 2 has its arena on a CUDA GPU. With executor `direct` steps and
 * resolves are kernels in a stream of the caller. sluice_step_begin and sluice_step_end only
 * enqueue; a plan does, too, and may be captured in a graph. sluice_resolve, and forks of pinned
 * blocks, wait for the stream; sluice_block_pin and sluice_seal for as little as they say below;
 * truncating and releasing a sequence until streams have passed what it stored and sealed of pinned
 * slots. Pages are filled out of DRAM that this
 * process has registered with the device, which happens in the background after an extent is
 * mapped: until then they are absent (sluice_cache_wait_pinned). Calls make the device current for
 * themselves and leave the caller's as it was; none may be made during a capture of their stream,
 * except sluice_step_begin, sluice_step_end and sluice_plan_launch.
 *
 * With executor `daemon` on a GPU, which the daemon's configuration allows to tenants whose
 * processes share an MPS server (mps_pipe_directory), a process of the daemon does all that, in a
 * stream of its own: steps, resolves, pins, seals and forks are requests that are over when they
 * return; there are no streams, rows or plans, and nothing is pinned here. What kernels of the
 * caller write to pinned slots must be complete (cudaStreamSynchronize) before the block is sealed
 * or forked, and what they read of slots before the step is ended. A forecast brings in at most
 * 16 MiB at a time, whatever its deadline. DRAM that the process may not pin is absent.
 * SLUICE_IO_ERROR: that process failed twice over the request; the call can be made again, also
 * sluice_step_end, after which the actor is in its step still.
 *
 * Errors of a GPU. SLUICE_CONTEXT_LOST: the CUDA context of this process is lost, by an illegal
 * access of any kernel in it or by an error of the GPU. All calls that work on the device return it
 * from then on, at once; closing and releasing return it too and free what they have. A new process
 * has a new context: end this one. Other processes go on. An error of the daemon's own context is
 * nobody's: the daemon does the same again in another one. SLUICE_DEVICE_LOST: the GPU gives nobody
 * a context; sluice_cache_open says so, and can be tried again when `sluicectl status` no longer
 * tells DEVICE_LOST. SLUICE_IO_ERROR: CUDA refused a call, and the context lives.
 *
 * Structs. A struct that describes (_desc) or informs (_info, _view, _stats, _result) begins with
 * `struct_size`; set it to sizeof, also where the call fills the rest. Zero what you do not use:
 * reserved fields and unknown flags that are not zero are refused (SLUICE_INVALID_ARGUMENT), so
 * that they can be given a meaning later. The *_INIT macros of the _desc structs do both.
 * sluice_error, sluice_keys, sluice_page_list and sluice_resolve_counts carry no size.
 *
 * Errors. Each call returns a status. `sluice_error*` may be NULL; otherwise it takes the code and
 * a sentence that says what, why and what to do. There are no globals and no thread-local state.
 *
 * Threads. A client, its caches and its actors may be used by any thread at the same time. A
 * sequence, and one actor, by one thread at a time. Objects must be released before the client is
 * closed.
 *
 * Processes. A client belongs to the process that opened it: after fork(), every call in the child
 * returns SLUICE_FORKED, except sluice_disconnect, which frees the child's copy without telling the
 * daemon. The thread that watches the daemon takes no signals, and is not in the child.
 *
 * Waits. Every call that can wait has a bound: `timeout_us` of the client, or of the call; but what
 * waits for a stream of a GPU waits for as long as that takes. After
 * SLUICE_TIMED_OUT of a call that changes a sequence (open, extend, truncate, seal, fork), nobody
 * knows whether it was carried out: the sequence answers SLUICE_WRONG_STATE from then on, and is to
 * be released; one that an open or fork made after all is released by the library. A step whose
 * begin or end timed out is put right by the next begin.
 *
 * The daemon dies, or is stopped, and comes back. A thread of the client notices at once, connects
 * again by itself (every 5 to 200 ms, for as long as the client lives), has the caches opened and
 * the sequences adopted as this process knows them, and the session goes on: handles, slots, pins
 * and steps stay what they were. `away` and `resumes` of sluice_client_get_info tell. Meanwhile:
 * - Calls that ask the daemon wait for it, and go on when it is back: opening of any kind, fork,
 *   extend, and with executor daemon seals, steps, resolves and pins. Those that the daemon died
 *   over are made again, and nothing is done twice. After the client's timeout they return
 *   SLUICE_DAEMON_AWAY, having changed nothing: they can be repeated. A seal that failed so is
 *   undecided: repeat it with the same key; until then the block takes no other, and its bytes do
 *   not change. Forecasts of executor daemon are dropped.
 * - With executor direct a decode step waits for nobody. Steps, resolves and plans, streams, rows,
 *   maps, pins and stores of private blocks, the arena, infos and stats go on with what is mapped.
 *   sluice_sequence_extend takes blocks that the cache holds in advance for this: for each
 *   live sequence as many as it fills, at a token per 20 ms, in an outage as long as the daemon is
 *   configured for (5 s unless it says otherwise), at least one; when they are used up, it waits.
 *   These blocks count as the tenant's memory, are taken only where memory is free, and are given
 *   up for a call that has none. sluice_seal is put off: the block's bytes are in its frame, the
 *   call returns SLUICE_OK (with deduplicated = 0), and the key becomes known when the daemon is
 *   back, by the next extend, truncate, fork, seal, release, pin, store or resolve of the sequence
 *   (on a GPU, and of a pinned block: by release, or by one that names an actor in a step, for
 *   whose begin that call then waits). Until then sluice_sequence_get_info counts it in
 *   to_be_sealed, its pinned slots are found as before, and a block without is absent. An error of
 *   such a seal is returned once, by the call that found it out, which has then done nothing else;
 *   the block is private again.
 * - Truncating, releasing and closing wait for no daemon; seals that were put off for what they
 *   give up are not done any more.
 *
 * A daemon may come back without what this client had. Then nothing is guessed: SLUICE_STALE_HANDLE
 * is what is left. Of all calls, steps included, if it does not know the session (it was started
 * cold, or by a version or configuration that shares no memory with the one before): close the
 * client, and connect anew. Of a cache and what belongs to it, if its memory is another: close it,
 * and open it again. Of one sequence, if a block of it is gone: release it, and open it again by
 * its keys. The text says which. What it loses so is waited for in the streams that use it; other
 * calls about sequences wait meanwhile, as for the daemon.
 *
 * Some sessions cannot go on (the daemon is configured so, or of an older version). Then calls that
 * ask the daemon return SLUICE_DAEMON_AWAY within a second of its death, or SLUICE_SHUTTING_DOWN if
 * it stopped in good order, for good, and what goes on with executor direct is the same but for
 * extend and seal. A session that a living daemon ended (after a violation, or by an operator) is
 * over in any case: steps fail with the reason, too.
 *
 * Releases. sluice_sequence_release, sluice_actor_close and sluice_cache_close free the object also
 * when they return an error, except SLUICE_WRONG_STATE of sluice_cache_close. An operation of
 * sluice_resolve_async is waited for before its actor is closed.
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SLUICE_API __attribute__((visibility("default")))
#else
#define SLUICE_API
#endif

#define SLUICE_ABI_VERSION 1u
#define SLUICE_MAX_KEY_BYTES 64u
#define SLUICE_MAX_MODEL_BYTES 256u
#define SLUICE_MAX_SALT_BYTES 128u
#define SLUICE_ERROR_TEXT_BYTES 512u

/* Values are stable; equal to sluice::ipc::Errc. */
typedef enum sluice_status {
  SLUICE_OK = 0,
  SLUICE_INVALID_ARGUMENT = 1,
  SLUICE_INVALID_LAYOUT = 2,
  SLUICE_UNKNOWN_TENANT = 3,
  SLUICE_PERMISSION_DENIED = 4,
  SLUICE_QUOTA_EXCEEDED = 5,
  SLUICE_NO_MEMORY = 6,
  SLUICE_NO_SLOT = 7,
  SLUICE_NOT_FOUND = 8,
  SLUICE_STALE_HANDLE = 9,
  SLUICE_WRONG_STATE = 10,
  SLUICE_SIZE_MISMATCH = 11,
  SLUICE_LIST_TOO_LONG = 12,
  SLUICE_BUSY = 13,
  SLUICE_TIMED_OUT = 14,
  SLUICE_DAEMON_AWAY = 15,
  SLUICE_VERSION_MISMATCH = 16,
  SLUICE_NOT_SUPPORTED = 17,
  SLUICE_FORKED = 18,
  SLUICE_PEER_VIOLATION = 19,
  SLUICE_ADDRESS_IN_USE = 20,
  SLUICE_IO_ERROR = 21,
  SLUICE_BAD_CONFIG = 22,
  SLUICE_SHUTTING_DOWN = 23,
  SLUICE_LIMIT_REACHED = 24,
  SLUICE_INTERNAL = 25,
  SLUICE_CONTEXT_LOST = 26,
  SLUICE_DEVICE_LOST = 27,
  SLUICE_DATA_LOST = 28
} sluice_status;

typedef struct sluice_error {
  int32_t code;                       /* sluice_status */
  char text[SLUICE_ERROR_TEXT_BYTES]; /* zero-terminated, cut when longer */
} sluice_error;

typedef struct sluice_client sluice_client;
typedef struct sluice_cache sluice_cache;
typedef struct sluice_sequence sluice_sequence;
typedef struct sluice_actor sluice_actor;
typedef struct sluice_op sluice_op;
typedef struct sluice_plan sluice_plan;

SLUICE_API uint32_t sluice_abi_version(void);
SLUICE_API const char* sluice_version(void);               /* "0.1.0" */
SLUICE_API const char* sluice_status_name(int32_t status); /* "quota_exceeded"; never NULL */

/* ---- client
 * ---------------------------------------------------------------------------------------- */

typedef struct sluice_connect_desc {
  size_t struct_size;
  const char*
      socket_path; /* NULL: $SLUICE_SOCKET, else where a daemon of root or of this user listens */
  const char* client_name; /* for operators; NULL: the process's name */
  uint64_t timeout_us;     /* bound of every wait of this client; 0: 10 s */
  uint32_t spin_us;        /* zero: reserved; waits spin adaptively before they sleep */
  uint32_t flags;          /* zero */
  uint64_t reserved[4];
} sluice_connect_desc;
#define SLUICE_CONNECT_DESC_INIT {sizeof(sluice_connect_desc), NULL, NULL, 0, 0, 0, {0, 0, 0, 0}}

/* `desc`: NULL for all defaults. DAEMON_AWAY: nothing listens there (the text says what to do).
 * UNKNOWN_TENANT: the configuration names no tenant for this user. VERSION_MISMATCH: client and
 * daemon share no protocol version. */
SLUICE_API sluice_status sluice_connect(const sluice_connect_desc* desc, sluice_client** out,
                                        sluice_error* error);

/* Gives up everything the client holds. NULL is allowed. */
SLUICE_API void sluice_disconnect(sluice_client* client);

typedef struct sluice_client_info {
  size_t struct_size;
  uint64_t session;       /* the daemon's number of this session */
  uint32_t connected;     /* 0: the daemon is gone, or ended the session */
  uint32_t end_reason;    /* sluice_status: why the session ended, SLUICE_OK while connected */
  uint64_t request_bytes; /* request memory: bounds one resolve of the daemon executor */
  char tenant[64];
  char daemon_version[32]; /* of the one that is connected, or was last */
  uint32_t resumes;        /* how often the session has gone on with a daemon that came back */
  uint32_t away;           /* 1: the daemon is gone, and the library is trying to reach it again */
} sluice_client_info;
SLUICE_API sluice_status sluice_client_get_info(sluice_client* client, sluice_client_info* out,
                                                sluice_error* error);

/* An empty request through the rings and back: the daemon is alive and serves. */
SLUICE_API sluice_status sluice_ping(sluice_client* client, sluice_error* error);

/* ---- caches
 * ---------------------------------------------------------------------------------------- */

typedef enum sluice_executor {
  SLUICE_EXECUTOR_DAEMON = 0,
  SLUICE_EXECUTOR_DIRECT = 1
} sluice_executor;

typedef enum sluice_page_kind {
  SLUICE_PAGE_LAYER = 0, /* one layer of a block, all KV heads */
  SLUICE_PAGE_HEAD = 1,  /* one (layer, KV head): page index layer * kv_heads + head */
  SLUICE_PAGE_ROW = 2,   /* one (layer, token); needs kv_heads = planes = 1 */
  SLUICE_PAGE_BLOCK = 3  /* the whole block */
} sluice_page_kind;

typedef enum sluice_cache_kind {
  SLUICE_CACHE_ATTENTION = 0,
  SLUICE_CACHE_WINDOW = 1, /* this and the following: reserved, SLUICE_NOT_SUPPORTED */
  SLUICE_CACHE_LATENT = 2,
  SLUICE_CACHE_STATE = 3,
  SLUICE_CACHE_OPAQUE = 4
} sluice_cache_kind;

typedef struct sluice_cache_desc {
  size_t struct_size;
  const char* model; /* 1 to SLUICE_MAX_MODEL_BYTES bytes: part of the namespace */
  const char* salt;  /* NULL or up to SLUICE_MAX_SALT_BYTES bytes: a namespace inside the tenant */
  uint32_t shard_index; /* which part of the heads; keys of different shards never meet */
  uint32_t shard_count; /* at least 1 */
  uint32_t kind;        /* sluice_cache_kind */
  uint32_t executor;    /* sluice_executor */
  uint32_t layers;
  uint32_t kv_heads; /* of this shard */
  uint32_t head_dim; /* elements */
  uint32_t block_tokens;
  uint32_t dtype_bytes;
  uint32_t planes;       /* 2: K and V; 1: one latent */
  uint32_t page_kind;    /* sluice_page_kind */
  int32_t device_type;   /* DLPack's numbers: where the arena lies. 0: the host backend; 2: CUDA */
  int32_t device_id;     /* CUDA: the ordinal of the device in this process */
  uint32_t flags;        /* zero */
  uint64_t hbm_bytes;    /* arena wanted; 0: the tenant's default. Rounded to whole extents */
  uint64_t device_index; /* CUDA: among the devices that the daemon's configuration makes of this
                          * GPU, by naming it more than once; else 0 */
  uint64_t reserved[7];
} sluice_cache_desc;
#define SLUICE_CACHE_DESC_INIT                                                            \
  {sizeof(sluice_cache_desc), NULL, NULL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, \
   {0, 0, 0, 0, 0, 0, 0}}

/* The first session of a tenant that opens a namespace creates the cache; later ones join it, with
 * the same layout (else INVALID_LAYOUT), and get its arena, whatever hbm_bytes they ask for;
 * the executors of sessions may differ. QUOTA_EXCEEDED: the arena does not fit the tenant's limit
 * or what the node can grant. BUSY: its memory was not there within the daemon's
 * limits.open_deadline; nothing is left of the attempt. NOT_SUPPORTED: this build, the machine or
 * the daemon cannot serve the device, or the executor on it; the text says what to do.
 *
 * The memory of an arena is taken at once, which the kernel needs up to half a second per GiB for:
 * with the default timeout of 10 s, give a client that creates arenas beyond some 20 GiB a longer
 * one. After TIMED_OUT the daemon goes on, so that opening again waits for the same cache; it then
 * counts as open until the client disconnects. A client that disconnects gives it up. */
SLUICE_API sluice_status sluice_cache_open(sluice_client* client, const sluice_cache_desc* desc,
                                           sluice_cache** out, sluice_error* error);
/* Sequences and actors of this cache must be released first (WRONG_STATE). Blocks stay warm. */
SLUICE_API sluice_status sluice_cache_close(sluice_cache* cache, sluice_error* error);

typedef struct sluice_cache_info {
  size_t struct_size;
  uint32_t created; /* 1: this call made the cache */
  uint32_t slots;   /* pages that the arena holds */
  uint64_t page_bytes;
  uint32_t pages_per_block;
  uint32_t max_blocks; /* attached ids */
  uint64_t block_bytes;
  uint64_t frame_stride; /* bytes of DRAM that a block takes */
  uint64_t table_bytes;  /* memory of the hot table, charged to the node */
  uint32_t max_actors;
  uint32_t frame_extents; /* that exist now */
  uint64_t frame_extent_bytes;
  /* On a GPU, else 0: */
  uint32_t pinned_frame_extents; /* that the device can read, of frame_extents */
  uint32_t pin_status;           /* sluice_status: why pinning stopped; SLUICE_OK: it did not */
  uint64_t device_bytes; /* HBM beside the arena: the device's part of the hot table, which all
                          * sessions of the cache share, and of this process rows of sequences and
                          * 2 MiB per GiB of pinned memory */
} sluice_cache_info;
SLUICE_API sluice_status sluice_cache_get_info(sluice_cache* cache, sluice_cache_info* out,
                                               sluice_error* error);

/* Waits until all DRAM extents that exist now can be read by the GPU, so that no page is absent for
 * lack of it; on the host backend they always can. TIMED_OUT: not yet. LIMIT_REACHED: this process
 * may not pin that much; the text names the limit to raise, and the next wait tries again. The same
 * error meets sluice_sequence_open and sluice_sequence_extend, once for each time that pinning
 * stopped. */
SLUICE_API sluice_status sluice_cache_wait_pinned(sluice_cache* cache, uint64_t timeout_us,
                                                  sluice_error* error);

/* The arena in this process: slot s lies at base + s * page_bytes, which is an address of the
 * device if device_type is not 1. Inside a page, bytes are ordered [head][plane][token][dim] for
 * the heads and tokens that the page holds. */
typedef struct sluice_arena_view {
  size_t struct_size;
  void* base;
  uint64_t page_bytes;
  uint32_t slots;
  int32_t device_type; /* DLPack's numbers: 1 = host, 2 = CUDA */
  int32_t device_id;
} sluice_arena_view;
SLUICE_API sluice_status sluice_cache_arena(sluice_cache* cache, sluice_arena_view* out,
                                            sluice_error* error);

typedef struct sluice_cache_stats {
  size_t struct_size;
  /* of this client in this cache, since it was opened */
  uint64_t hits, misses, no_slot, absent; /* pages */
  uint64_t bytes_filled;                  /* into slots, by resolve */
  uint64_t forecast_issued, forecast_used, forecast_late, forecast_dropped; /* pages */
  uint64_t forecast_wasted_bytes; /* of all users of the cache */
  uint64_t resolves;
  uint64_t blocks_matched, blocks_deduplicated;
} sluice_cache_stats;
SLUICE_API sluice_status sluice_cache_get_stats(sluice_cache* cache, sluice_cache_stats* out,
                                                sluice_error* error);

/* ---- sequences
 * ------------------------------------------------------------------------------------- */

/* Keys as a view: key i is key_bytes bytes at data + i * stride. */
typedef struct sluice_keys {
  const void* data;
  uint32_t key_bytes; /* 1 to SLUICE_MAX_KEY_BYTES, the same for all keys of a call */
  uint32_t stride;    /* 0: key_bytes */
  size_t count;
} sluice_keys;

/* Opens a sequence over the longest known prefix of `keys` (which may be empty). */
SLUICE_API sluice_status sluice_sequence_open(sluice_cache* cache, const sluice_keys* keys,
                                              sluice_sequence** out, uint32_t* matched_blocks,
                                              sluice_error* error);

/* Appends `count` private blocks, all or none. Their frames are reserved, so that a seal cannot
 * fail for lack of memory. QUOTA_EXCEEDED: at the tenant's limit and nothing can be evicted. BUSY:
 * memory is being made, or free once running steps ended, and was not there within the client's
 * timeout. NO_MEMORY: the node could not make an extent. */
SLUICE_API sluice_status sluice_sequence_extend(sluice_sequence* sequence, uint32_t count,
                                                uint32_t* first_block, sluice_error* error);

/* A second sequence over the same blocks. Sealed blocks are shared; unsealed ones are copied.
 * `actor`: on a GPU, an actor in a step if the sequence has pinned blocks (INVALID_ARGUMENT); NULL
 * on the host backend. Waits for memory, and fails for it, as extend does. */
SLUICE_API sluice_status sluice_sequence_fork(sluice_sequence* sequence, sluice_actor* actor,
                                              sluice_sequence** out, sluice_error* error);

/* Keeps the first `blocks` blocks and gives up the rest, sealed or not. On a GPU, this and release
 * wait until streams have passed the stores and seals of pinned slots that the sequence began. */
SLUICE_API sluice_status sluice_sequence_truncate(sluice_sequence* sequence, uint32_t blocks,
                                                  sluice_error* error);

/* Gives up the sequence. Sealed blocks stay known by their keys while there is room. NULL is
 * allowed. */
SLUICE_API sluice_status sluice_sequence_release(sluice_sequence* sequence, sluice_error* error);

typedef struct sluice_sequence_info {
  size_t struct_size;
  uint32_t blocks;
  uint32_t sealed;       /* how many of them; not those whose seals were put off */
  uint32_t to_be_sealed; /* seals that were put off while the daemon was away; see above */
  uint32_t reserved;
} sluice_sequence_info;
SLUICE_API sluice_status sluice_sequence_get_info(sluice_sequence* sequence,
                                                  sluice_sequence_info* out, sluice_error* error);

/* The number by which plans name the sequence, on a GPU (else NOT_SUPPORTED). It stays the same
 * until the sequence is released; launches that name it must have passed by then. From the first
 * call on, open, extend, truncate, seal and release of the sequence also write what its blocks are
 * to device memory, which takes some microseconds and waits for no other stream. LIMIT_REACHED:
 * 65,536 sequences of the cache have numbers. */
SLUICE_API sluice_status sluice_sequence_row(sluice_sequence* sequence, uint32_t* row,
                                             sluice_error* error);

/* ---- writing blocks
 * -------------------------------------------------------------------------------- */

/* The frame of a private block, for prefill: block_bytes, ordered [layer][head][plane][token][dim].
 * WRONG_STATE: the block is sealed, or its pages are pinned slots. Valid until the seal. */
SLUICE_API sluice_status sluice_block_map(sluice_sequence* sequence, uint32_t block, void** data,
                                          uint64_t* bytes, sluice_error* error);

/* Slots for the pages of a private block that decode fills: pinned in the arena until the seal,
 * readable by resolve of this sequence at once. `slots` takes pages_per_block entries. Call inside
 * a step of `actor`. Calling again gives the same slots. On a GPU it waits for the begin of the
 * step, and for what is in the stream behind it only if the block's frame was mapped, whose bytes
 * come along (or if a graph began the step). NO_SLOT: the arena is full of pages in use; nothing is
 * pinned. */
SLUICE_API sluice_status sluice_block_pin(sluice_sequence* sequence, uint32_t block,
                                          sluice_actor* actor, int32_t* slots, sluice_error* error);

/* Begins to write a block's pinned slots back to its frame, as a seal would, so that the seal need
 * not wait for what is enqueued later. Call inside a step of `actor` when the caller's last write
 * is in its stream: on a GPU (executor direct) the copy is enqueued there, and the call waits for
 * nothing but an earlier store of the same block, and the memory of its frame. Otherwise the copy
 * is made by this call, before which the caller has finished writing. Who writes to the slots again
 * pins the block again first (which takes the store back, and gives the same slots). Blocks without
 * pinned slots are stored as they are. WRONG_STATE: the block is sealed, or the stream is being
 * captured. TIMED_OUT, LIMIT_REACHED: the device cannot write to the frame's memory; see
 * sluice_cache_wait_pinned. */
SLUICE_API sluice_status sluice_block_store(sluice_sequence* sequence, uint32_t block,
                                            sluice_actor* actor, sluice_error* error);

/* Sets `stored` to 1 if the block's bytes are in its frame, so that a seal has no copy to wait for;
 * else to 0. Waits for nothing. */
SLUICE_API sluice_status sluice_block_stored(sluice_sequence* sequence, uint32_t block,
                                             uint32_t* stored, sluice_error* error);

typedef struct sluice_seal_result {
  size_t struct_size;
  uint32_t deduplicated; /* 1: the key was known; the existing block took this one's place */
  uint32_t reserved;
} sluice_seal_result;

/* Makes a private block immutable and names it. Pinned slots are written back to the frame first
 * (see sluice_block_store), whose writes are in the stream by now. Pinned blocks are sealed inside
 * a step of `actor` (NULL otherwise), in which, or in an earlier one, all is enqueued that uses the
 * slots as they were pinned. On a GPU it waits for the store and the begin of that step, so an
 * engine that is a step ahead of the device loses least by sealing at the step's end. An actor with
 * a plan that advances, whose begins are not known, waits for its stream: graphs that have such a
 * plan, or a begin, and were launched in another stream, must be ordered before it.
 * `valid_bytes`: 0 for a full block. SIZE_MISMATCH: the key is known with another size; the block
 * stays private. */
SLUICE_API sluice_status sluice_seal(sluice_sequence* sequence, uint32_t block, const void* key,
                                     uint32_t key_bytes, uint64_t valid_bytes, sluice_actor* actor,
                                     sluice_seal_result* result, sluice_error* error);

/* ---- actors and steps
 * ------------------------------------------------------------------------------ */

/* One stream of work: the main stream, a forecast stream, each micro-batch lane. */
SLUICE_API sluice_status sluice_actor_open(sluice_cache* cache, sluice_actor** out,
                                           sluice_error* error);
SLUICE_API sluice_status sluice_actor_close(sluice_actor* actor, sluice_error* error);

/* Slots resolved between begin and end stay valid until end. WRONG_STATE: already (not) in a step.
 */
SLUICE_API sluice_status sluice_step_begin(sluice_actor* actor, sluice_error* error);
SLUICE_API sluice_status sluice_step_end(sluice_actor* actor, sluice_error* error);

/* ---- resolve
 * --------------------------------------------------------------------------------------- */

typedef enum sluice_outcome {
  SLUICE_HIT = 0,
  SLUICE_MISS = 1,    /* was brought in */
  SLUICE_NO_ROOM = 2, /* no slot was free: slot is -1 */
  SLUICE_ABSENT = 3,  /* not in DRAM, not readable here yet, or unsealed: slot is -1 */
  SLUICE_LOST = 4     /* as ABSENT, and for good: the block's only copy, on NVMe, cannot be read.
                         Compute its tokens again, and seal them as a new block. */
} sluice_outcome;

/* One list: page `page` of each of the sequence's blocks `blocks[0..count)`. */
typedef struct sluice_page_list {
  sluice_sequence* sequence;
  uint32_t page; /* page index inside a block */
  uint32_t count;
  const uint32_t* blocks; /* indices in the sequence; any order, duplicates allowed */
  int32_t* slots;         /* out, count entries; -1: none. Or NULL: only bring them in */
  uint8_t* outcomes;      /* out, count entries of sluice_outcome, or NULL */
} sluice_page_list;

typedef struct sluice_resolve_counts {
  uint64_t hits, misses, no_slot, absent; /* pages; absent: with those that are lost */
  uint64_t bytes_filled;
} sluice_resolve_counts;

/* Lists may be of any number, length and sequence of the actor's cache. A page that gets no slot is
 * reported in its list; that is not an error. LIST_TOO_LONG: one list exceeds request memory
 * (daemon executor); batches that exceed it are split. `counts` may be NULL, else it is set, not
 * added to. */
SLUICE_API sluice_status sluice_resolve(sluice_actor* actor, const sluice_page_list* lists,
                                        size_t list_count, sluice_resolve_counts* counts,
                                        sluice_error* error);

/* The same, and waits up to `wait_us` for pages whose blocks the daemon has on NVMe: they are on
 * their way to DRAM since they were first asked for. Those that did not come are ABSENT, which is
 * no error. While the actor stays in its step, DRAM that the step may still read is not used for
 * what comes: a step that wants many more blocks than DRAM holds is better ended and begun anew.
 * wait_us 0: as sluice_resolve. Plans wait by sluice_plan_launch_wait. */
SLUICE_API sluice_status sluice_resolve_wait(sluice_actor* actor, const sluice_page_list* lists,
                                             size_t list_count, uint64_t wait_us,
                                             sluice_resolve_counts* counts, sluice_error* error);

/* The same, not waited for. `lists` and what they point to stay valid and untouched until the
 * operation is finished by sluice_op_wait. With the direct executor the work is done at once.
 * TIMED_OUT: request memory stayed full of operations in flight. */
SLUICE_API sluice_status sluice_resolve_async(sluice_actor* actor, const sluice_page_list* lists,
                                              size_t list_count, sluice_op** out,
                                              sluice_error* error);

/* Waits, and frees the operation unless it returns TIMED_OUT. timeout_us 0: only look. */
SLUICE_API sluice_status sluice_op_wait(sluice_op* op, uint64_t timeout_us,
                                        sluice_resolve_counts* counts, sluice_error* error);

/* A hint: these pages will be resolved within `deadline_us`, with `confidence` 0..100 per cent.
 * Fills only spare slots; may be dropped; accounted in the stats. `slots` and `outcomes` of the
 * lists are not used.
 *
 * On a GPU it only enqueues, in the actor's stream, and never waits (but the first of an actor
 * allocates, and is best made before the work begins): a call while two forecasts of
 * the actor are under way is dropped, as are pages beyond 131,072 of a call. Give forecasts an
 * actor of their own: the first of them gives the actor's own stream, for good, the least priority
 * of the device; a stream of the caller keeps its priority. The stats tell forecasts as of the last
 * step that each actor ended. */
SLUICE_API sluice_status sluice_forecast(sluice_actor* actor, const sluice_page_list* lists,
                                         size_t list_count, uint64_t deadline_us,
                                         uint32_t confidence, sluice_error* error);

/* ---- streams and plans: caches on a GPU, elsewhere NOT_SUPPORTED
 * ---------------------------------------------------------------------------------------------- */

typedef enum sluice_stream_kind {
  SLUICE_STREAM_NONE = 0,
  SLUICE_STREAM_CUDA = 1
} sluice_stream_kind;

typedef struct sluice_stream {
  uint32_t kind;     /* sluice_stream_kind */
  uint32_t reserved; /* zero */
  void* handle;      /* cudaStream_t or CUstream; NULL is the legacy default stream */
} sluice_stream;

/* The stream of the actor's steps, resolves, pins and copies from now on. NULL or kind none: one of
 * its own, which does not wait for the legacy default stream; this is also what an actor begins
 * with. Waits for what is enqueued in the stream so far. A stream is destroyed after its actor has
 * another one, or is closed. WRONG_STATE: the actor is in a step. */
SLUICE_API sluice_status sluice_actor_set_stream(sluice_actor* actor, const sluice_stream* stream,
                                                 sluice_error* error);

typedef enum sluice_item_kind {
  SLUICE_ITEM_BLOCK = 0, /* an index of a block of the list's sequence */
  SLUICE_ITEM_ROW = 1    /* an index of a token of the list's sequence; page kind ROW only */
} sluice_item_kind;

#define SLUICE_MAX_PLAN_ITEMS 1073741824u
#define SLUICE_MAX_PLAN_WAIT_US 10000000u

/* A launch leaves the actor's step and enters the next one before it looks anything up. */
#define SLUICE_PLAN_ADVANCE 1u
/* A launch is a forecast, as sluice_forecast: what it names is brought in as far as budget_bytes
 * and spare slots go, by few CTAs (4, unless copying_ctas says otherwise), and slots need no
 * pointer. What is there, or is being brought in, has the outcome HIT; a slot says where a page was
 * seen, and nothing keeps it there until it is resolved. Give it an actor of its own, whose steps
 * it brackets with begin and end; not together with ADVANCE. Creating one gives the actor's own
 * stream a low priority, as sluice_forecast does. */
#define SLUICE_PLAN_FORECAST 2u

/* A resolve whose lists lie in device memory. What the pointers lead to may change from launch to
 * launch; the pointers, and the numbers here, are bound once. List l is items[l * list_capacity
 * ..); it belongs to sequence number sequences[l / lists_per_sequence]. Item b of a list of kind
 * BLOCK names page first_page + l % lists_per_sequence of block b; item t of kind ROW names the row
 * of token t: page first_page + t % block_tokens of block t / block_tokens. Lists may hold
 * duplicates; a negative item is padding, and gets slot -1. What lies beyond a list's count, or
 * belongs to a list that is not real, is not written to. */
typedef struct sluice_plan_desc {
  size_t struct_size;
  uint32_t kind;               /* sluice_item_kind */
  uint32_t flags;              /* SLUICE_PLAN_ADVANCE, SLUICE_PLAN_FORECAST, or zero */
  uint32_t max_lists;          /* a multiple of lists_per_sequence */
  uint32_t list_capacity;      /* items; max_lists * list_capacity <= SLUICE_MAX_PLAN_ITEMS */
  uint32_t lists_per_sequence; /* e.g. one per KV head; 0: 1 */
  uint32_t first_page;         /* of a layer: page index inside a block */
  uint32_t copying_ctas;       /* CTAs that copy, at most; 0: as many as are best on an idle GPU */
  uint32_t confidence;         /* of a forecast: 0 to 100 per cent; else zero */
  const int32_t* items;        /* [max_lists][list_capacity] */
  const uint32_t* counts;      /* [max_lists] items of each list; NULL: list_capacity */
  const uint32_t* list_count;  /* how many lists are real, one number; NULL: max_lists */
  const uint32_t* sequences;   /* [max_lists / lists_per_sequence] of sluice_sequence_row */
  int32_t* slots;         /* out, [max_lists][list_capacity]; -1: none. NULL: of a forecast only */
  uint8_t* outcomes;      /* out, likewise: sluice_outcome, beyond LOST it is ABSENT; or NULL */
  uint32_t* without_slot; /* one number, to which items without a slot are added; or NULL */
  uint64_t budget_bytes;  /* of each launch of a forecast; 0: 64 MiB; else zero */
  uint64_t wait_us;       /* a launch waits so long in its stream, at most; 0: it does not */
  uint64_t reserved[2];
} sluice_plan_desc;
/* clang-format off */
#define SLUICE_PLAN_DESC_INIT                                                      \
  {sizeof(sluice_plan_desc), 0, 0, 0, 0, 1, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, \
   NULL, NULL, 0, 0, {0, 0}}
/* clang-format on */

/* Waiting in the stream (wait_us, at most SLUICE_MAX_PLAN_WAIT_US): if items are ABSENT, a launch
 * waits on the device, and nothing later of its stream begins, until their blocks are in DRAM, or
 * lost, or the time is over; then it looks all of them up once more, and outcomes are those of that
 * look, but for MISSes of the first one. It may be captured, and the host waits for nothing. It
 * needs `outcomes`; no forecast waits. A launch that finds nothing absent takes a few us longer
 * than without wait_us. An extent of DRAM that this process has not mapped yet is not waited for
 * with success: sluice_plan_launch_wait maps it, and so does every call that asks the daemon. */

/* Checks and allocates what launches need. INVALID_ARGUMENT: also a pointer that the device cannot
 * use. LIST_TOO_LONG: more than SLUICE_MAX_PLAN_ITEMS. The plan is destroyed before its actor is
 * closed. */
SLUICE_API sluice_status sluice_plan_create(sluice_actor* actor, const sluice_plan_desc* desc,
                                            sluice_plan** out, sluice_error* error);

/* Enqueues the plan in `stream`; NULL or kind none: in that of its actor. It neither allocates nor
 * waits, and may be captured in a CUDA graph. Launches of one actor, replays of graphs included,
 * must not overlap: in another stream than the actor's, order them with events. Steps and plans may
 * be launched early (programmatic dependent launch, compute capability 9.0) and then wait on the
 * device for the kernel before them: one that was itself launched so must have waited
 * (griddepcontrol.wait) when it ends, as what comes after it relies on that. So has a kernel that
 * is launched early behind a plan to wait before it reads slots. The actor is in a
 * step when the launch runs; WRONG_STATE tells outside of captures that it is in none. Pages are
 * not counted in the cache's stats; see `outcomes`. */
SLUICE_API sluice_status sluice_plan_launch(sluice_plan* plan, const sluice_stream* stream,
                                            sluice_error* error);

/* The same, and waits: until all items have their slots, or `wait_us` have gone by. While blocks of
 * some are on their way from NVMe, or extents of DRAM on theirs into the device's sight, the plan
 * is launched again and again, at growing intervals; each launch adds to `without_slot`, and with
 * ADVANCE is a step of its own. Returns when the last launch has passed. `absent`, unless NULL, is
 * set to the items that are ABSENT yet, which is no error; nobody waits for those that are LOST.
 * What sluice_resolve_wait says of DRAM that the step may still read holds here, but for ADVANCE.
 * Outcomes of items beyond counts are set to 0. INVALID_ARGUMENT: the plan has no outcomes, or is a
 * forecast. WRONG_STATE: also while the stream is captured. */
SLUICE_API sluice_status sluice_plan_launch_wait(sluice_plan* plan, const sluice_stream* stream,
                                                 uint64_t wait_us, uint64_t* absent,
                                                 sluice_error* error);

/* Its launches must have passed, and graphs with them must not run again. NULL is allowed. */
SLUICE_API void sluice_plan_destroy(sluice_plan* plan);

/* ---- operators
 * ------------------------------------------------------------------------------------- */

/* One admin request on a connection of its own; the reply is a JSON document with its schema's name
 * and version, to be freed with sluice_admin_free. What a tenant may see and do depends on who
 * connects: see the configuration's [admin] section. `arguments_json`: an object, or NULL. */
SLUICE_API sluice_status sluice_admin(const sluice_connect_desc* desc, const char* verb,
                                      const char* arguments_json, char** reply_json,
                                      sluice_error* error);
SLUICE_API void sluice_admin_free(char* reply_json);

#ifdef __cplusplus
}
#endif

#endif /* SLUICE_H */

/* The C API of libedgekiln: run an engine directory inside an application.
 *
 * Errors: every function that can fail returns an edgekiln_status. edgekiln_error() returns the message of the calling
 * thread's last failure: one sentence with the offending value and the fix. No C++ exception leaves a function.
 *
 * Strings are UTF-8. A string with a length argument needs no terminating zero; all others are zero-terminated.
 *
 * Threads: an engine is immutable and thread-safe. A session generates in one thread at a time; a second thread that
 * tries gets EDGEKILN_ERROR_REQUEST. edgekiln_session_cancel may be called from any thread at any time.
 *
 * Lifetimes: the caller frees engines with edgekiln_engine_close and sessions with edgekiln_session_free, in any order:
 * the engine's memory is freed with the last of them. The library copies what it needs from options, strings and
 * messages before a function returns; it keeps no pointer of the caller's.
 *
 * ABI: structs grow only at the end, so a program may be compiled against an older or a newer header than the
 * library's. Every struct begins with struct_size, the size that the caller was compiled with. The edgekiln_..._init
 * functions set it; call them before anything else on a struct. The library never touches bytes beyond struct_size, and
 * fields that the caller's struct lacks have their default. A field that is newer than the library must be zero, its
 * default; otherwise the call fails with EDGEKILN_ERROR_UNSUPPORTED. The library's soname carries the major version.
 */
#ifndef EDGEKILN_H
#define EDGEKILN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EDGEKILN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgekiln_status {
  EDGEKILN_OK = 0,
  EDGEKILN_ERROR_REQUEST = 1,     /* an argument or option is out of range, or the prompt is too long */
  EDGEKILN_ERROR_ENGINE = 2,      /* the engine directory is missing, damaged or edited */
  EDGEKILN_ERROR_UNSUPPORTED = 3, /* a target, schema version, tokenizer or struct field unknown to this library */
  EDGEKILN_ERROR_RUNTIME = 4,     /* the library that runs the graph failed */
  EDGEKILN_CANCELLED = 5,         /* by edgekiln_session_cancel or the token callback */
  EDGEKILN_ERROR_MEMORY = 6,      /* out of memory */
  EDGEKILN_ERROR_INTERNAL = 7     /* a defect of edgekiln */
} edgekiln_status;

typedef enum edgekiln_finish_reason {
  EDGEKILN_FINISH_NONE = 0,  /* not the last token */
  EDGEKILN_FINISH_EOS = 1,   /* an end-of-sequence token, also if a stop string ends in it */
  EDGEKILN_FINISH_STOP = 2,  /* a stop string */
  EDGEKILN_FINISH_LENGTH = 3 /* max_tokens, or the engine's max_length */
} edgekiln_finish_reason;

typedef enum edgekiln_kernels_choice {
  EDGEKILN_KERNELS_EDGEKILN = 0,   /* edgekiln's kernels where they are found and support the graph */
  EDGEKILN_KERNELS_ONNXRUNTIME = 1 /* only those of ONNX Runtime */
} edgekiln_kernels_choice;

typedef enum edgekiln_special_tokens {
  EDGEKILN_SPECIAL_TOKENS_AUTO = 0, /* all but turn marks, which are bos, eos and pad */
  EDGEKILN_SPECIAL_TOKENS_SHOW = 1, /* all, also the token that ends the answer */
  EDGEKILN_SPECIAL_TOKENS_HIDE = 2  /* none */
} edgekiln_special_tokens;

/* What an edgekiln_mask_callback returns. */
typedef enum edgekiln_mask_result {
  EDGEKILN_MASK_SET = 0,   /* only the tokens whose bits are set may follow */
  EDGEKILN_MASK_ANY = 1,   /* any token may follow */
  EDGEKILN_MASK_END = 2,   /* the answer is complete: its last token has EDGEKILN_FINISH_STOP */
  EDGEKILN_MASK_CANCEL = 3 /* cancel the answer */
} edgekiln_mask_result;

typedef struct edgekiln_engine edgekiln_engine;
typedef struct edgekiln_session edgekiln_session;

typedef struct edgekiln_engine_options {
  size_t struct_size;
  int64_t chunk;                   /* tokens of one prefill run; 0: the target's default */
  int32_t threads;                 /* compute threads, at most the processors that this process may use; 0: its
                                    * performance cores, within affinity and CPU quota */
  edgekiln_kernels_choice kernels; /* default EDGEKILN_KERNELS_EDGEKILN */
  const char* kernels_library;     /* path of edgekiln's kernels; NULL: libedgekiln_ops.so beside libedgekiln */
  const char* device;              /* "cpu" or "cuda", one that the engine's target supports; NULL: its first */
  int32_t verify;                  /* check the SHA-256 of files, of weights once with pack_cache; default 1 */
  int32_t text;                    /* load the tokenizer, needed for text and messages; default 1 */
  int32_t pack_cache;              /* keep packed weights of 256 MiB and more beside the engine; default 1 */
  int32_t reserved;
} edgekiln_engine_options;

typedef struct edgekiln_engine_info {
  size_t struct_size;
  const char* name; /* the strings are valid until the engine and all its sessions are freed */
  const char* target;
  const char* kernels; /* "onnxruntime", "tensorrt", or the instruction set of edgekiln's kernels */
  int64_t vocab_size;
  int64_t max_length; /* tokens of one sequence, prompt and answer together */
  int32_t threads;
  int32_t max_verify_tokens; /* tokens verified in one run by speculative decoding; 1: no speculation */
  int32_t has_text;          /* the tokenizer is loaded */
  int32_t has_chat;          /* the engine has a chat template that this library can render */
} edgekiln_engine_info;

/* Says which tokens may come next, for instance by a grammar. Called in the thread that generates: before the first
 * token, and after each token before its edgekiln_token_callback, but not after an end-of-sequence token that ends the
 * answer. `ids` are the tokens of the answer so far. Bit t % 32 of mask[t / 32] stands for token t, as in the masks of
 * llguidance and xgrammar; all bits are 0 before the call. `words` is the size of the vocabulary divided by 32, rounded
 * up; bits beyond the vocabulary have no effect. Returns an edgekiln_mask_result. A mask of no token fails with
 * EDGEKILN_ERROR_REQUEST.
 *
 * Log-probabilities are those without the mask. Speculative decoding gives the same answer with a mask as without
 * speculation. The callback must not call a generate function or edgekiln_session_reset with the same session. */
typedef int (*edgekiln_mask_callback)(const int64_t* ids, size_t count, uint32_t* mask, size_t words, void* mask_data);

/* Stop strings are matched in the answer with all special tokens, whichever of them are shown: a stop string may be a
 * special token, or cross one. Only one with U+FFFD is matched in the text that is shown. */
typedef struct edgekiln_generate_options {
  size_t struct_size;
  int64_t max_tokens;        /* of the answer; default 256 */
  double temperature;        /* 0: greedy; default 0 */
  int64_t top_k;             /* 0: off; default 0 */
  double top_p;              /* 1: off; default 1 */
  double min_p;              /* 0: off; default 0 */
  double repetition_penalty; /* 1: off; default 1 */
  uint64_t seed;             /* used if has_seed */
  const char* const* stop;   /* stop_count strings; the answer ends before the first of them, see above */
  size_t stop_count;
  int32_t has_seed;   /* 0: a random seed; default 0 */
  int32_t ignore_eos; /* continue after an end-of-sequence token; default 0 */
  int32_t logprobs;   /* compute the log-probability of each token; default 0 */
  int32_t speculate;  /* speculative decoding where it is faster; it does not change the answer; default 1 */
  edgekiln_special_tokens special_tokens; /* in the answer's text; default EDGEKILN_SPECIAL_TOKENS_AUTO */
  int32_t reserved;
  edgekiln_mask_callback mask; /* limits each token; default NULL: any token */
  void* mask_data;             /* passed to the callback */
} edgekiln_generate_options;

/* A chat message. Functions take an array of them: element i begins i * messages[0].struct_size bytes after element 0,
 * and all elements have the same struct_size. An array initialized with EDGEKILN_MESSAGE satisfies this.
 *
 * Control tokens, which are special tokens, bos, eos and pad, stay text in the content, so that it cannot end its turn
 * and begin another one. With parse_special they are recognized: set it only for text that you trust. */
typedef struct edgekiln_message {
  size_t struct_size;
  const char* role; /* "system", "user" or "assistant" */
  const char* content;
  int32_t parse_special; /* recognize control tokens in the content; default 0 */
  int32_t reserved;
} edgekiln_message;

#define EDGEKILN_MESSAGE(role, content) {sizeof(edgekiln_message), (role), (content), 0, 0}

/* A part of a prompt that the caller renders, for instance by a chat template with tools. The parts are tokenized as
 * one text; a control token is recognized where all of its characters are in parts with parse_special. Arrays are as
 * those of edgekiln_message. */
typedef struct edgekiln_prompt_part {
  size_t struct_size;
  const char* text; /* text_length bytes, whole characters */
  size_t text_length;
  int32_t parse_special; /* 1: text of the template; 0: text of users and tools, which cannot forge a turn */
  int32_t reserved;
} edgekiln_prompt_part;

#define EDGEKILN_PROMPT_PART(text, text_length, parse_special) \
  {sizeof(edgekiln_prompt_part), (text), (text_length), (parse_special), 0}

/* A token of an answer. It and its text are valid until the callback returns. */
typedef struct edgekiln_token {
  size_t struct_size; /* the library's: fields beyond it do not exist */
  int64_t id;
  const char* text; /* what the token adds to the answer: whole characters, often none; not zero-terminated */
  size_t text_length;
  double logprob; /* natural logarithm, before penalty, temperature and filters; NaN without option logprobs */
  edgekiln_finish_reason finish_reason;
  int32_t reserved;
} edgekiln_token;

/* Called with each token, in the thread that generates. Return 0 to continue, anything else to cancel. It must not call
 * a generate function or edgekiln_session_reset with the same session. */
typedef int (*edgekiln_token_callback)(const edgekiln_token* token, void* user_data);

typedef struct edgekiln_summary {
  size_t struct_size;
  int64_t prompt_tokens;
  int64_t cached_tokens; /* prompt tokens that the session already held and did not compute again */
  int64_t generated_tokens;
  int64_t drafted_tokens;  /* tokens drafted by speculative decoding */
  int64_t accepted_tokens; /* drafted tokens that became part of the answer; each saved a run */
  double first_token_s;    /* seconds from the call to the first token */
  double total_s;          /* seconds from the call to the last token */
  edgekiln_finish_reason finish_reason;
  int32_t reserved;
} edgekiln_summary;

/* The library's version, as "0.1.0". */
EDGEKILN_API const char* edgekiln_version(void);

/* The message of the calling thread's last failure, valid until its next failure. Never NULL. */
EDGEKILN_API const char* edgekiln_error(void);

/* ---- initialization of structs ---- */

/* Set all fields to their defaults and struct_size to `struct_size`. Programs call the functions below, which pass the
 * size that they were compiled with; bindings to other languages call these. NULL is allowed. */
EDGEKILN_API void edgekiln_engine_options_init_sized(edgekiln_engine_options* options, size_t struct_size);
EDGEKILN_API void edgekiln_generate_options_init_sized(edgekiln_generate_options* options, size_t struct_size);

static inline void edgekiln_engine_options_init(edgekiln_engine_options* options) {
  edgekiln_engine_options_init_sized(options, sizeof *options);
}

static inline void edgekiln_generate_options_init(edgekiln_generate_options* options) {
  edgekiln_generate_options_init_sized(options, sizeof *options);
}

/* Structs that the library fills: all fields zero but struct_size. */
static inline void edgekiln_engine_info_init(edgekiln_engine_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = sizeof *info;
}

static inline void edgekiln_summary_init(edgekiln_summary* summary) {
  memset(summary, 0, sizeof *summary);
  summary->struct_size = sizeof *summary;
}

/* ---- engines ---- */

/* Load an engine directory. `options` may be NULL for the defaults. `*engine` is NULL on failure. */
EDGEKILN_API edgekiln_status edgekiln_engine_open(const char* directory, const edgekiln_engine_options* options,
                                                  edgekiln_engine** engine);

/* Free the engine. Its sessions stay usable and keep the weights until the last of them is freed. NULL is allowed. */
EDGEKILN_API void edgekiln_engine_close(edgekiln_engine* engine);

/* Fill `info`, which edgekiln_engine_info_init has initialized. */
EDGEKILN_API edgekiln_status edgekiln_engine_get_info(const edgekiln_engine* engine, edgekiln_engine_info* info);

/* Set the sampling fields of initialized `options` to those that the model's generation_config recommends, or to their
 * defaults where it recommends none. The other fields are left as they are. */
EDGEKILN_API edgekiln_status edgekiln_engine_get_sampling(const edgekiln_engine* engine,
                                                          edgekiln_generate_options* options);

/* Tokenize a text. With `add_special`, the tokenizer's post-processor adds its tokens, usually a beginning-of-sequence
 * token. `*count` is set to the number of ids, of which at most `capacity` are written: call it with capacity 0 to
 * learn the number. */
EDGEKILN_API edgekiln_status edgekiln_tokenize(const edgekiln_engine* engine, const char* text, size_t text_length,
                                               int32_t add_special, int64_t* ids, size_t capacity, size_t* count);

/* Tokenize a conversation, up to the start of the assistant's next answer; otherwise as edgekiln_tokenize. */
EDGEKILN_API edgekiln_status edgekiln_tokenize_chat(const edgekiln_engine* engine, const edgekiln_message* messages,
                                                    size_t message_count, int64_t* ids, size_t capacity, size_t* count);

/* Tokenize a prompt of parts. No special tokens are added: the template writes its own; otherwise as
 * edgekiln_tokenize. */
EDGEKILN_API edgekiln_status edgekiln_tokenize_parts(const edgekiln_engine* engine, const edgekiln_prompt_part* parts,
                                                     size_t part_count, int64_t* ids, size_t capacity, size_t* count);

/* Convert ids of the vocabulary to text without special tokens and without a terminating zero. `*length` is set to its
 * size in bytes, of which at most `capacity` are written. */
EDGEKILN_API edgekiln_status edgekiln_detokenize(const edgekiln_engine* engine, const int64_t* ids, size_t count,
                                                 char* text, size_t capacity, size_t* length);

/* ---- sessions ---- */

/* Create a session: the KV cache of one conversation. `*session` is NULL on failure. */
EDGEKILN_API edgekiln_status edgekiln_session_create(const edgekiln_engine* engine, edgekiln_session** session);

/* Free the session, which must not be generating. NULL is allowed. */
EDGEKILN_API void edgekiln_session_free(edgekiln_session* session);

/* Drop all tokens of the session. Its memory stays allocated. */
EDGEKILN_API edgekiln_status edgekiln_session_reset(edgekiln_session* session);

/* Cancel the session's current generate call, within a prompt as well as between tokens; that call returns
 * EDGEKILN_CANCELLED. No effect if there is none. */
EDGEKILN_API void edgekiln_session_cancel(edgekiln_session* session);

/* ---- generation ---- */

/* Generate an answer to a prompt of token ids. The session keeps the prefix that the prompt shares with the tokens it
 * holds, so pass the whole conversation each time: only its new part is computed. Sliding-window layers hold the last
 * tokens only: if more than 512 tokens follow the shared prefix, the whole prompt may be computed again.
 *
 * `options` may be NULL for the defaults, `callback` and `summary` may be NULL. `summary` must have been initialized
 * with edgekiln_summary_init and is filled on success. After a failure or EDGEKILN_CANCELLED the session stays usable.
 */
EDGEKILN_API edgekiln_status edgekiln_generate(edgekiln_session* session, const int64_t* ids, size_t count,
                                               const edgekiln_generate_options* options,
                                               edgekiln_token_callback callback, void* user_data,
                                               edgekiln_summary* summary);

/* As edgekiln_generate, with a text prompt. */
EDGEKILN_API edgekiln_status edgekiln_generate_text(edgekiln_session* session, const char* text, size_t text_length,
                                                    const edgekiln_generate_options* options,
                                                    edgekiln_token_callback callback, void* user_data,
                                                    edgekiln_summary* summary);

/* As edgekiln_generate, with a conversation as the prompt. */
EDGEKILN_API edgekiln_status edgekiln_generate_chat(edgekiln_session* session, const edgekiln_message* messages,
                                                    size_t message_count, const edgekiln_generate_options* options,
                                                    edgekiln_token_callback callback, void* user_data,
                                                    edgekiln_summary* summary);

/* As edgekiln_generate, with a prompt of parts, see edgekiln_tokenize_parts. */
EDGEKILN_API edgekiln_status edgekiln_generate_parts(edgekiln_session* session, const edgekiln_prompt_part* parts,
                                                     size_t part_count, const edgekiln_generate_options* options,
                                                     edgekiln_token_callback callback, void* user_data,
                                                     edgekiln_summary* summary);

#ifdef __cplusplus
}
#endif

#endif

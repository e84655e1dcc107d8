/* edgekiln's C interface: run an engine directory inside an application.
 *
 * Every function that can fail returns an `edgekiln_status`; the sentence that says why is edgekiln_error(). No C++
 * exception leaves a function. Strings are UTF-8 and, where a length goes with them, need no final zero.
 *
 * Threads: an engine may be used by any number of threads at once. A session is one conversation and generates in one
 * thread at a time; edgekiln_session_cancel may be called from any thread. Sessions of one engine share its weights.
 */
#ifndef EDGEKILN_H
#define EDGEKILN_H

#include <stddef.h>
#include <stdint.h>

#define EDGEKILN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgekiln_status {
  EDGEKILN_OK = 0,
  EDGEKILN_ERROR_REQUEST = 1,     /* an argument or option out of range, a prompt too long */
  EDGEKILN_ERROR_ENGINE = 2,      /* an engine directory that is missing, damaged or edited */
  EDGEKILN_ERROR_UNSUPPORTED = 3, /* something this library does not read or run: a target, a schema, a tokenizer */
  EDGEKILN_ERROR_RUNTIME = 4,     /* the library that runs the graph failed */
  EDGEKILN_CANCELLED = 5,         /* by edgekiln_session_cancel or the callback */
  EDGEKILN_ERROR_MEMORY = 6,
  EDGEKILN_ERROR_INTERNAL = 7
} edgekiln_status;

typedef enum edgekiln_finish {
  EDGEKILN_FINISH_NONE = 0,  /* not the last token */
  EDGEKILN_FINISH_EOS = 1,   /* the model's own end */
  EDGEKILN_FINISH_STOP = 2,  /* a stop string */
  EDGEKILN_FINISH_LENGTH = 3 /* max_tokens, or the engine holds no more */
} edgekiln_finish;

typedef struct edgekiln_engine edgekiln_engine;
typedef struct edgekiln_session edgekiln_session;

typedef struct edgekiln_engine_options {
  int32_t threads;     /* compute threads; 0: the physical cores this process may use */
  int64_t chunk;       /* tokens a prefill run takes at once; 0: what runs best */
  int32_t native;      /* use edgekiln's own kernels where they are found */
  const char* kernels; /* their library; NULL: libedgekiln_ops.so beside libedgekiln */
  int32_t verify;      /* check the SHA-256 of every file first */
  int32_t text;        /* load the tokenizer; without it only token ids go in and come out */
  const char* device;  /* "cpu" or "cuda", one that the engine's target runs on; NULL: the one it is for */
} edgekiln_engine_options;

typedef struct edgekiln_engine_info {
  const char* name; /* the strings live as long as the engine */
  const char* target;
  const char* kernels; /* "stock", or the instruction set of edgekiln's own */
  int64_t vocab_size;
  int64_t max_length; /* positions of one sequence, prompt and answer together */
  int32_t threads;
  int32_t has_text; /* whether it takes text */
  int32_t has_chat; /* whether it takes messages */
} edgekiln_engine_info;

typedef struct edgekiln_generate_options {
  int64_t max_tokens;
  double temperature; /* 0: the most likely token each time */
  int64_t top_k;      /* 0: all */
  double top_p;       /* 1: all */
  double min_p;       /* 0: all */
  double repetition_penalty;
  int32_t has_seed; /* without, a fresh seed each time */
  uint64_t seed;
  const char* const* stop; /* stop_count strings with a final zero; the answer ends before the first of them */
  size_t stop_count;
  int32_t ignore_eos;
  int32_t logprobs;
  int32_t speculate; /* verify drafted tokens together where that is faster; the answer is the same */
} edgekiln_generate_options;

typedef struct edgekiln_message {
  const char* role; /* "system", "user" or "assistant" */
  const char* content;
} edgekiln_message;

typedef struct edgekiln_token {
  int64_t id;
  const char*
      text; /* what the token adds to the answer, whole characters only, often none; until the callback returns */
  size_t text_length;
  double logprob; /* natural, before penalty, temperature and filters; NaN unless asked for */
  edgekiln_finish finish;
} edgekiln_token;

/* Called with each token in the thread that generates. Anything but 0 cancels. It must not generate in the session. */
typedef int (*edgekiln_token_callback)(const edgekiln_token* token, void* user_data);

typedef struct edgekiln_summary {
  int64_t prompt_tokens;
  int64_t cached_tokens; /* of the prompt, held from before and not computed again */
  int64_t generated_tokens;
  double first_token_s; /* from the call to the first token */
  double total_s;       /* from the call to the last token */
  edgekiln_finish finish;
  int64_t drafted_tokens;  /* copied from what the conversation repeats */
  int64_t accepted_tokens; /* of those, what the answer went on with: each spared it a run */
} edgekiln_summary;

EDGEKILN_API const char* edgekiln_version(void);

/* What went wrong in this thread's last call that failed: one sentence, until its next call. Never NULL. */
EDGEKILN_API const char* edgekiln_error(void);

/* ---- engines ---- */

EDGEKILN_API void edgekiln_engine_options_init(edgekiln_engine_options* options);

/* Load an engine directory. `options` may be NULL. `*engine` is NULL on failure; end it with edgekiln_engine_close. */
EDGEKILN_API edgekiln_status edgekiln_engine_open(const char* directory, const edgekiln_engine_options* options,
                                                  edgekiln_engine** engine);

/* Its sessions may outlive this call: the weights go with the last of them. NULL is fine. */
EDGEKILN_API void edgekiln_engine_close(edgekiln_engine* engine);

EDGEKILN_API edgekiln_status edgekiln_engine_get_info(const edgekiln_engine* engine, edgekiln_engine_info* info);

/* Ids of a text, with what the tokenizer's post-processor adds (a beginning token, in most) if `add_special`. `*count`
 * is how many there are; as many as `capacity` are written. Call with capacity 0 to learn the size. */
EDGEKILN_API edgekiln_status edgekiln_tokenize(const edgekiln_engine* engine, const char* text, size_t text_length,
                                               int32_t add_special, int64_t* ids, size_t capacity, size_t* count);

/* As edgekiln_tokenize, of a conversation up to the assistant's next answer. */
EDGEKILN_API edgekiln_status edgekiln_tokenize_chat(const edgekiln_engine* engine, const edgekiln_message* messages,
                                                    size_t message_count, int64_t* ids, size_t capacity, size_t* count);

/* Text of ids, special tokens left out, without a final zero. `*length` is its size; at most `capacity` is written. */
EDGEKILN_API edgekiln_status edgekiln_detokenize(const edgekiln_engine* engine, const int64_t* ids, size_t count,
                                                 char* text, size_t capacity, size_t* length);

/* ---- sessions ---- */

EDGEKILN_API edgekiln_status edgekiln_session_create(const edgekiln_engine* engine, edgekiln_session** session);

/* Not while it generates. NULL is fine. */
EDGEKILN_API void edgekiln_session_free(edgekiln_session* session);

/* Forget all tokens; the memory stays with the session. */
EDGEKILN_API edgekiln_status edgekiln_session_reset(edgekiln_session* session);

/* Stop what the session generates now, also in mid-prompt; without effect if it generates nothing. From any thread. */
EDGEKILN_API void edgekiln_session_cancel(edgekiln_session* session);

/* ---- generation ---- */

/* Greedy, 256 tokens, with speculation. */
EDGEKILN_API void edgekiln_generate_options_init(edgekiln_generate_options* options);

/* As edgekiln_generate_options_init, with the sampling that the model's makers recommend where they do. */
EDGEKILN_API edgekiln_status edgekiln_generate_options_of(const edgekiln_engine* engine,
                                                          edgekiln_generate_options* options);

/* Answer a prompt of token ids. What it shares with the tokens that the session holds is not computed again: give the
 * whole conversation each time. `options`, `callback` and `summary` may be NULL. After EDGEKILN_CANCELLED the session
 * may be used again. */
EDGEKILN_API edgekiln_status edgekiln_generate(edgekiln_session* session, const int64_t* ids, size_t count,
                                               const edgekiln_generate_options* options,
                                               edgekiln_token_callback callback, void* user_data,
                                               edgekiln_summary* summary);

/* As edgekiln_generate, of a text. */
EDGEKILN_API edgekiln_status edgekiln_generate_text(edgekiln_session* session, const char* text, size_t text_length,
                                                    const edgekiln_generate_options* options,
                                                    edgekiln_token_callback callback, void* user_data,
                                                    edgekiln_summary* summary);

/* As edgekiln_generate, of a conversation. */
EDGEKILN_API edgekiln_status edgekiln_generate_chat(edgekiln_session* session, const edgekiln_message* messages,
                                                    size_t message_count, const edgekiln_generate_options* options,
                                                    edgekiln_token_callback callback, void* user_data,
                                                    edgekiln_summary* summary);

#ifdef __cplusplus
}
#endif

#endif

